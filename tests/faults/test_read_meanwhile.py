"""Other sessions restart sequences and drop tables while a reset, a plan or a capture reads: that is tried again, or named."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from django.db import Error

from testdb_app.backends.postgresql.queries import read_rows
from testdb_app.baseline import capture_baseline
from testdb_app.exceptions import ConcurrencyError, ResetError
from tests.scratch import ScratchDatabase

TABLES = 30
ACTS: dict[str, Callable[[ScratchDatabase], object]] = {
    "reset": lambda scratch: scratch.reset(to="empty", lock_timeout=20),
    "plan": lambda scratch: scratch.resetter(to="empty", lock_timeout=20).plan(),
    "capture": lambda scratch: capture_baseline("scratch", replace=True, allow_database=scratch.name, lock_timeout=20),
}


@pytest.fixture
def many(scratch: ScratchDatabase) -> ScratchDatabase:
    scratch.execute("".join(f"CREATE TABLE t{number} (id serial PRIMARY KEY);" for number in range(TABLES)))
    return scratch


@contextlib.contextmanager
def changed_all_the_time(scratch: ScratchDatabase) -> Iterator[None]:
    """Have other sessions restart the sequences, in two orders, and drop and make a table."""
    stop = threading.Event()

    def work(*statements: str) -> None:
        with scratch.connect() as connection:
            while not stop.is_set():
                for statement in statements:
                    with contextlib.suppress(Exception):
                        connection.execute(statement)

    restarts = [f"ALTER SEQUENCE t{number}_id_seq RESTART WITH 5" for number in range(TABLES)]
    several = [";".join(restarts[start : start + 5]) for start in range(0, TABLES, 5)]
    backwards = [";".join(reversed(each.split(";"))) for each in reversed(several)]
    comes = ("CREATE TABLE guest (id serial PRIMARY KEY, other integer REFERENCES t0)", "DROP TABLE guest")
    threads = [threading.Thread(target=work, args=each) for each in (several, backwards, comes)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("act", ACTS)
def test_what_reads_is_tried_again_or_named(many: ScratchDatabase, act: str) -> None:
    done = 0
    until = time.monotonic() + 4
    with changed_all_the_time(many):
        while time.monotonic() < until:
            try:
                ACTS[act](many)
                done += 1
            except ResetError as error:
                assert "Nothing was changed" in error.message
            except Error as error:
                pytest.fail(f"a raw error: {error!r}")
    assert done


def test_a_deadlock_while_reading_is_tried_again(many: ScratchDatabase) -> None:
    errors: list[BaseException] = []

    def reset() -> None:
        try:
            many.reset(to="empty", lock_timeout=20)
        except BaseException as error:
            errors.append(error)
        finally:
            many.connection.close()

    with many.superuser() as other:
        other.autocommit = False
        # So that it is the reset that the server breaks off.
        other.execute("SET deadlock_timeout = '60s'")
        other.execute(f"ALTER SEQUENCE t{TABLES - 1}_id_seq RESTART")
        worker = threading.Thread(target=reset)
        worker.start()
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'relation'"
        until = time.monotonic() + 10
        while not many.value(waiting) and time.monotonic() < until:
            time.sleep(0.01)
        other.execute("ALTER SEQUENCE t0_id_seq RESTART")
        other.commit()
    worker.join()
    assert [error for error in errors if not isinstance(error, ConcurrencyError)] == []


def test_queries_of_the_catalog_are_not_compiled(scratch):
    """With a publication to read, the server compiled for 5 seconds."""
    with scratch.connection.cursor() as cursor:
        cursor.execute("SET jit = on")
        assert read_rows(scratch.connection, ["SELECT current_setting('jit')"]) == [[("off",)]]
        cursor.execute("SELECT current_setting('jit')")
        assert cursor.fetchone() == ("on",)
