"""Which way each reset went: the report does not tell, so the watch of the product is overheard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from testdb_app.backends.postgresql.change_tracker import PostgreSQLChangeTracker


@contextmanager
def overheard(tell: Callable[[str], None]) -> Iterator[None]:
    """Call *tell* with what each replay came to, while the block runs."""
    original = PostgreSQLChangeTracker.replay

    def replay(watch: PostgreSQLChangeTracker, *arguments: Any, **options: Any) -> Any:
        done = original(watch, *arguments, **options)
        if done is None:
            tell("watch: another look had to tell")
        else:
            tell("watch: nothing was written" if done.script is None else "watch: the counters told")
        return done

    original_again = PostgreSQLChangeTracker._reset_the_same_again

    def reset_the_same_again(watch: PostgreSQLChangeTracker, *arguments: Any, **options: Any) -> Any:
        expects = watch._expected is not None
        done = original_again(watch, *arguments, **options)
        if expects:
            tell("watch: as expected, without a look" if done is not None else "watch: not as expected")
        return done

    with (
        mock.patch.object(PostgreSQLChangeTracker, "replay", replay),
        mock.patch.object(PostgreSQLChangeTracker, "_reset_the_same_again", reset_the_same_again),
    ):
        yield
