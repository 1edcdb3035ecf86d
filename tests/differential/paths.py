"""Which way each reset went: the report does not say, so the change tracker of the product is overheard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any
from unittest import mock

from testdb_app.backends.postgresql.change_tracker import CountedChanges, PostgreSQLChangeTracker


@contextmanager
def overheard(tell: Callable[[str], None]) -> Iterator[None]:
    """Call *tell* with what each question to the tracker came to, while the block runs."""
    find, run = PostgreSQLChangeTracker.find_changes, PostgreSQLChangeTracker.run

    def find_changes(tracker: PostgreSQLChangeTracker, *arguments: Any, **options: Any) -> Iterator[CountedChanges]:
        with closing(find(tracker, *arguments, **options)) as findings:
            for found in findings:
                if found.is_nothing:
                    tell("tracker: nothing was written")
                yield found
        tell("tracker: a full scan is needed")

    def run_script(
        tracker: PostgreSQLChangeTracker, connection: Any, found: CountedChanges, *arguments: Any, **options: Any
    ) -> Any:
        done = run(tracker, connection, found, *arguments, **options)
        if done is not None:
            tell("tracker: the counters proved what was written")
        if found.is_guess:
            tell("tracker: as guessed" if done is not None else "tracker: not as guessed")
        return done

    with (
        mock.patch.object(PostgreSQLChangeTracker, "find_changes", find_changes),
        mock.patch.object(PostgreSQLChangeTracker, "run", run_script),
    ):
        yield
