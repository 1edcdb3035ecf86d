"""The guard sits in the core: whichever door is taken, an unknown database is not written to."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable

import pytest
from django.core.management import CommandError, call_command
from django.db import transaction
from psycopg import sql

from testdb_app.exceptions import TestDBError, UnsafeDatabaseError
from testdb_app.resetter import Resetter
from tests.guard.conftest import content
from tests.scratch import ScratchDatabase, connect

Make = Callable[..., ScratchDatabase]


def reset() -> None:
    Resetter("scratch").reset()


def reset_as_truncation() -> None:
    Resetter("scratch", strategy="truncate").reset()


def reset_within_a_transaction() -> None:
    with transaction.atomic("scratch"):
        Resetter("scratch", within_transaction=True).reset()


def reset_after_planning() -> None:
    resetter = Resetter("scratch")
    assert resetter.plan().total_rows == 5
    resetter.reset()


def command(*options: str) -> Callable[[], None]:
    def run() -> None:
        call_command("resetdb", "--database", "scratch", *options, stdout=io.StringIO(), stderr=io.StringIO())

    return run


DOORS: dict[str, Callable[[], None]] = {
    "reset": reset,
    "reset, truncating": reset_as_truncation,
    "reset, within a transaction": reset_within_a_transaction,
    "plan, then reset": reset_after_planning,
    "resetdb": command(),
    "resetdb --no-input": command("--no-input"),
    "resetdb of one table": command("--no-input", "public.item"),
    "resetdb --strategy truncate": command("--no-input", "--strategy", "truncate"),
    "resetdb --format json": command("--no-input", "--format", "json"),
    "resetdb -v 0": command("--no-input", "-v0"),
    "resetdb --allow-database of another": command("--no-input", "--allow-database", "postgres"),
}


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
def test_no_door_goes_round_the_guard(
    filled: ScratchDatabase, door: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{filled.name}\n"))
    before = content(filled)
    with pytest.raises((UnsafeDatabaseError, CommandError), match="it is not known to be a test database"):
        door()
    assert content(filled) == before


def test_the_command_asks_nobody_for_a_confirmation_that_it_would_not_heed(
    filled: ScratchDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = io.StringIO(f"{filled.name}\n")
    monkeypatch.setattr(sys, "stdin", answers)
    with pytest.raises(CommandError, match="Refusing to reset"):
        command()()
    assert answers.tell() == 0


def test_the_guard_is_asked_again_at_every_reset(make_filled: Make) -> None:
    known, other = make_filled("scratch"), make_filled("other")
    resetter = known.resetter()
    assert resetter.reset().rows == 5
    before = content(other)
    resetter.connection.close()
    resetter.connection.settings_dict["NAME"] = other.name
    with pytest.raises(UnsafeDatabaseError) as caught:
        resetter.reset()
    assert (caught.value.rule, caught.value.database) == ("unknown", other.name)
    assert content(other) == before


def test_a_mark_that_came_since_the_last_reset_counts(filled: ScratchDatabase) -> None:
    resetter = filled.resetter()
    resetter.reset()
    filled.execute("INSERT INTO shelf (name) VALUES ('new')")
    filled.execute("CREATE SCHEMA testdb; CREATE TABLE testdb.protected ()")
    with pytest.raises(UnsafeDatabaseError, match="marked as protected"):
        resetter.reset()
    assert filled.count("shelf") == 1


def test_a_connection_that_was_lost_is_asked_where_it_leads_when_it_is_made_anew(make_filled: Make) -> None:
    known, other = make_filled("scratch"), make_filled("other")
    resetter = known.resetter()
    resetter.reset()
    before = content(other)
    # The session is ended by the server; what comes in its place leads elsewhere under the same name.
    backend = resetter.connection.connection.info.backend_pid
    first, second = sql.Identifier(known.name), sql.Identifier(other.name)
    resetter.connection.connection.execute("SELECT 1")
    with connect("postgres") as session:
        session.execute("SELECT pg_terminate_backend(%s, 1000)", [backend])
        session.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(first, sql.Identifier(f"{known.name}_old")))
        session.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(second, first))
    known.name, other.name = f"{known.name}_old", known.name
    other.connection.settings_dict["NAME"] = other.name
    other.execute("CREATE SCHEMA testdb; CREATE TABLE testdb.protected ()")
    with pytest.raises(TestDBError, match="marked as protected"):
        resetter.reset()
    assert content(other) == before
