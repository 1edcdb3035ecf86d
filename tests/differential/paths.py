"""Which way each reset went: the report does not tell, so the watch of the product is overheard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from testdb_app.backends.postgresql.change_tracker import PostgreSQLWatch


@contextmanager
def overheard(tell: Callable[[str], None]) -> Iterator[None]:
    """Call *tell* with what each replay came to, while the block runs."""
    original = PostgreSQLWatch.replay

    def replay(watch: PostgreSQLWatch, *arguments: Any, **options: Any) -> Any:
        done = original(watch, *arguments, **options)
        if done is None:
            tell("watch: another look had to tell")
        else:
            tell("watch: nothing was written" if done.script is None else "watch: the counters told")
        return done

    original_again = PostgreSQLWatch._reset_the_same_again

    def reset_the_same_again(watch: PostgreSQLWatch, *arguments: Any, **options: Any) -> Any:
        expects = watch._expected is not None
        done = original_again(watch, *arguments, **options)
        if expects:
            tell("watch: as expected, without a look" if done is not None else "watch: not as expected")
        return done

    with (
        mock.patch.object(PostgreSQLWatch, "replay", replay),
        mock.patch.object(PostgreSQLWatch, "_reset_the_same_again", reset_the_same_again),
    ):
        yield
