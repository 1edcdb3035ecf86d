"""Clones that are made in a thread while pytest collects the tests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from testdb_app.creation.store import Spare

if TYPE_CHECKING:
    from testdb_app.creation.store import TemplateStore
    from testdb_app.creation.template import Template


class SpareMaker:
    """Makes a spare clone for each of *aliases* in a thread. It never builds a template.

    *find* opens the store of an alias, and returns it with the template that fits now, or None; it runs in the thread.
    """

    def __init__(self, aliases: Iterable[str], find: Callable[[str], tuple[TemplateStore, Template | None]]) -> None:
        self._find = find
        self._spares: dict[str, Spare] = {}
        self._thread = threading.Thread(
            target=self._make, args=(tuple(aliases),), name="testdb spare clones", daemon=True
        )
        self._thread.start()

    def _make(self, aliases: tuple[str, ...]) -> None:
        for alias in aliases:
            with suppress(Exception):  # what fails here fails again, or is made then, when the database is needed
                store, template = self._find(alias)
                try:
                    if template is not None and not template.elsewhere:
                        self._spares[alias] = Spare(store.make_spare(template), template, store)
                finally:
                    if alias not in self._spares:
                        store.close()

    def find_templates(self) -> dict[str, Template]:
        """Wait until the clones are made, and return their templates by alias."""
        self._thread.join()
        return {alias: spare.template for alias, spare in self._spares.items()}

    @contextmanager
    def taken(self, alias: str, template: Template) -> Iterator[Spare | None]:
        """Hand over the spare clone of *template* for *alias*; None if there is none."""
        self._thread.join()
        spare = self._spares.get(alias)
        if spare is None or (spare.template.name, spare.template.made) != (template.name, template.made):
            yield None
            return
        del self._spares[alias]
        with spare.store:
            yield spare

    def close(self) -> None:
        """Drop the clones that were not used."""
        self._thread.join()
        while self._spares:
            _, spare = self._spares.popitem()
            with spare.store, suppress(Exception):  # the next collection drops it
                spare.store.drop(spare.name)
