"""The signals that a reset sends, and the caches of Django that it clears.

::

    @receiver(database_reset)
    def forget_currencies(using, tables, **kwargs):
        if any(table.name == "shop_currency" for table in tables):
            currencies.cache_clear()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.dispatch import Signal

from testdb_app import _django_private as django_private

if TYPE_CHECKING:
    from testdb_app.schema import QualifiedName

database_reset = Signal()
"""Sent after a reset that changed rows, by the class of the resetter, with

- ``using``: the alias of the database;
- ``tables``: a frozenset of :class:`~testdb_app.schema.QualifiedName`, the tables whose rows changed, and those that
  were truncated with them;
- ``report``: the :class:`~testdb_app.report.ResetReport`.

A receiver that raises makes ``reset()`` raise, after the reset is done.
"""

reset_finished = Signal()
"""Sent after every reset, even one that found nothing to do, with ``using`` and ``report`` as above. Reports of time use it."""


# Tables whose managers keep rows in memory as long as the process lives.
_CACHED = {"django_content_type": ("contenttypes", "ContentType"), "django_site": ("sites", "Site")}


def clear_caches(tables: frozenset[QualifiedName]) -> None:
    """Clear Django's caches of *tables*, whose rows changed. Touches no database."""
    for table in tables:
        if table.name in _CACHED:
            _clear(*_CACHED[table.name])


def clear_all_caches() -> None:
    """Clear all of these caches, as Django's flush does between tests: a test may count queries."""
    for app_label, model in _CACHED.values():
        _clear(app_label, model)


def remember_content_types() -> dict[str, Any]:
    """Return the cached content types, by alias, for :func:`recall_content_types`."""
    if not apps.is_installed("django.contrib.contenttypes"):
        return {}
    cache = django_private.content_type_cache(_content_types())
    return {alias: dict(found) for alias, found in cache.items()}


def recall_content_types(remembered: dict[str, Any]) -> None:
    """Put *remembered*, and nothing else, into the cache of content types. Their rows must be unchanged since."""
    if apps.is_installed("django.contrib.contenttypes"):
        cache = django_private.content_type_cache(_content_types())
        cache.clear()
        cache.update({alias: dict(found) for alias, found in remembered.items()})


def _content_types() -> Any:
    return apps.get_model("contenttypes", "ContentType").objects


def _clear(app_label: str, model: str) -> None:
    if apps.is_installed(f"django.contrib.{app_label}"):
        manager: Any = apps.get_model(app_label, model).objects
        manager.clear_cache()
