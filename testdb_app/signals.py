"""The signals that a reset sends: one for caches of a project's own over the tables of its database.

::

    @receiver(database_reset)
    def forget_currencies(using, tables, **kwargs):
        if any(table.name == "shop_currency" for table in tables):
            currencies.cache_clear()
"""

from __future__ import annotations

from django.dispatch import Signal

database_reset = Signal()
"""Sent after a reset that changed rows, by the class of the resetter, with

- ``using``: the alias of the database;
- ``tables``: a frozenset of :class:`~testdb_app.schema.QualifiedName`, the tables whose rows changed, and those that
  were truncated with them;
- ``report``: the :class:`~testdb_app.report.ResetReport`.

A receiver that raises makes ``reset()`` raise, after the reset is done.
"""

reset_finished = Signal()
"""Sent after every reset, also one that found nothing to do, with ``using`` and ``report`` as above: for reports of time."""
