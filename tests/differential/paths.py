"""Which way each reset went: the report does not say, so the change tracker of the product is overheard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from testdb_app.backends.postgresql.change_tracker import CountedChanges, PostgreSQLChangeTracker, Source


@contextmanager
def overheard(tell: Callable[[str], None]) -> Iterator[None]:
    """Call *tell* with what each question to the tracker came to, while the block runs."""
    find, run = PostgreSQLChangeTracker.find_changes, PostgreSQLChangeTracker.run

    def find_changes(tracker: PostgreSQLChangeTracker, *arguments: Any, **options: Any) -> Any:
        found = find(tracker, *arguments, **options)
        if found is None:
            tell("tracker: a full scan is needed")
        elif found.is_nothing:
            tell("tracker: nothing was written")
        return found

    def run_script(
        tracker: PostgreSQLChangeTracker, connection: Any, found: CountedChanges, *arguments: Any, **options: Any
    ) -> Any:
        changes = run(tracker, connection, found, *arguments, **options)
        is_prediction = found.source is Source.PREDICTION
        if changes is not None:
            tell("tracker: the counters proved what was written")
        if is_prediction:
            tell("tracker: as predicted" if changes is not None else "tracker: not as predicted")
        return changes

    with (
        mock.patch.object(PostgreSQLChangeTracker, "find_changes", find_changes),
        mock.patch.object(PostgreSQLChangeTracker, "run", run_script),
    ):
        yield
