"""Each transaction that writes proves first, inside itself, that it is where the guard was asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from django.db import connections, transaction
from psycopg.errors import InvalidTextRepresentation

from testdb_app import guard
from testdb_app.backends import get_backend
from testdb_app.backends.base import DatabaseIdentity, Mark
from testdb_app.backends.postgresql.connection import server_version
from testdb_app.backends.postgresql.preconditions import Precondition
from testdb_app.baseline import capture_baseline, drop_baseline
from testdb_app.database_setup import restart_sequences
from testdb_app.exceptions import UnsafeDatabaseError
from testdb_app.resetter import Resetter
from tests.guard.conftest import content
from tests.guard.switching import SwitchingPool
from tests.scratch import ScratchDatabase, default_parameters

Make = Callable[..., ScratchDatabase]
MOST_TRANSACTIONS = 25


@pytest.fixture
def pool(make_filled: Make, tmp_path: Path) -> Iterator[SwitchingPool]:
    """A pool under the alias ``pooled``, which leads to one of two databases with the same tables and rows."""
    test = make_filled("scratch")
    make_filled("production")
    parameters = default_parameters()
    if parameters.get("password"):
        pytest.skip("the pool of this test sends no password")
    pool = SwitchingPool(tmp_path, parameters, test.name)
    test.register("pooled", HOST=str(tmp_path), PORT=str(pool.port))
    yield pool
    connections["pooled"].close()
    pool.close()


def identify(database: ScratchDatabase) -> DatabaseIdentity:
    return get_backend(database.connection).identify(database.connection)


def database_named(name: str) -> ScratchDatabase:
    found = ScratchDatabase()
    found.name = name
    return found


ACTS: dict[str, Callable[[str], object]] = {
    "reset": lambda name: Resetter("pooled", to="empty", allow_database=name).reset(),
    "capture": lambda name: capture_baseline("pooled", allow_database=name, replace=True),
    "drop": lambda name: drop_baseline("pooled", allow_database=name),
    "mark": lambda _: get_backend(connections["pooled"]).set_mark(
        connections["pooled"], Mark.TEST, present=True, identity=Resetter("pooled").identify()
    ),
}


@pytest.mark.parametrize("act", ACTS)
def test_nothing_is_written_elsewhere_wherever_a_pool_switches(pool: SwitchingPool, act: str) -> None:
    test, production = database_named(pool.database), database_named(connections["production"].settings_dict["NAME"])
    before = content(production)
    refused = 0
    for after in range(1, MOST_TRANSACTIONS):
        connections["pooled"].close()
        pool.database, pool.other, pool.left = test.name, production.name, None
        connections["pooled"].ensure_connection()
        pool.left = after
        try:
            ACTS[act](test.name)
        except UnsafeDatabaseError as error:
            refused += 1
            assert error.rule in {"elsewhere", "names-differ"}
            assert production.name in error.message
        assert content(production) == before
        assert not production.value("SELECT count(*) FROM pg_namespace WHERE nspname = 'testdb'")
        if pool.left is not None:
            break
    assert refused
    assert after > 1


def test_a_resetter_that_remembers_writes_nothing_elsewhere(pool: SwitchingPool) -> None:
    test, production = database_named(pool.database), database_named(connections["production"].settings_dict["NAME"])
    before = content(production)
    pool.other = production.name
    resetter = Resetter("pooled", to="empty", allow_database=test.name)
    for after in range(1, MOST_TRANSACTIONS):
        pool.database, pool.left = test.name, None
        for _ in range(3):
            test.execute("INSERT INTO shelf (name) VALUES ('more')")
            resetter.reset()
        test.execute("INSERT INTO shelf (name) VALUES ('more')")
        pool.left = after
        try:
            resetter.reset()
        except UnsafeDatabaseError as error:
            assert error.rule in {"elsewhere", "names-differ"}
        assert content(production) == before
        if pool.left is not None:
            break
    assert after > 1


@pytest.mark.parametrize("act", ["reset", "capture"])
@pytest.mark.parametrize("way", ["another connection", "a pool that switches"])
def test_a_server_of_another_version_is_refused_by_the_guard_whatever_fails_there(
    pool: SwitchingPool, act: str, way: str
) -> None:
    """The other database lacks a function of the catalog that only newer servers have, or that this one reads sequences by."""
    test, production = database_named(pool.database), database_named(connections["production"].settings_dict["NAME"])
    connection = connections["pooled"]
    resetter = Resetter("pooled", to="empty", allow_database=test.name)
    for _ in range(3):
        resetter.reset()
    function = "pg_get_sequence_data" if server_version(connection) >= 18_00_00 else "pg_sequence_last_value"
    with production.superuser() as session:
        session.execute(f"ALTER FUNCTION pg_catalog.{function}(regclass) RENAME TO other")
    before = content(production)
    pool.database = production.name
    if way == "another connection":
        connection.close()
        connection.settings_dict["NAME"] = production.name
    for attempt in (resetter.reset, lambda: ACTS[act](test.name)):
        with pytest.raises(UnsafeDatabaseError) as caught:
            attempt()
        assert production.name in caught.value.message
        assert caught.value.rule in {"names-differ", "unknown"}
    assert content(production) == before
    assert not production.value("SELECT count(*) FROM pg_namespace WHERE nspname = 'testdb'")


def test_sequences_are_restarted_only_where_the_guard_permits_it(
    filled: ScratchDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled.execute("DELETE FROM item; DELETE FROM shelf")
    capture_baseline("scratch", allow_database=filled.name)
    before = content(filled)
    with pytest.raises(UnsafeDatabaseError, match="Refusing to restart the sequences of"):
        restart_sequences("scratch")
    assert content(filled) == before == [(3, True), (2, True)]
    monkeypatch.setattr(guard, "_trusted_names", {"scratch": {filled.name}})
    restart_sequences("scratch")
    assert content(filled) == [(1, False), (1, False)]


DIFFERENCES: dict[str, tuple[dict[str, Any], str, str]] = {
    "database": ({"name": "o'ther = 1"}, "elsewhere", 'the connection leads to database "'),
    "oid": ({"oid": 1}, "elsewhere", "another database of this name"),
    "cluster": ({"system_identifier": "1"}, "elsewhere", "another server"),
    "start": ({"server_started": "1"}, "elsewhere", "started again"),
}


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_every_difference_is_found_and_named(
    filled: ScratchDatabase, difference: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "_trusted_names", {})
    guard.trust_test_database(filled.alias, filled.name)
    changes, rule, text = DIFFERENCES[difference]
    identity = identify(filled)
    schema = filled.schema()
    data = get_backend(filled.connection).data
    with transaction.atomic(using=filled.alias):
        data.prove(filled.connection, identity, schema)
    with pytest.raises(UnsafeDatabaseError) as caught, transaction.atomic(using=filled.alias):
        data.prove(filled.connection, replace(identity, **changes), schema)
    assert caught.value.rule == rule
    assert text in caught.value.message
    fast = Precondition.of(replace(identity, **changes), owners=schema.trusted_owners).holds()
    # The caller of the fast one compares the start of the server.
    assert filled.value(f"SELECT {fast}") is (difference == "start")


def test_a_mark_that_was_put_meanwhile_is_heeded(filled: ScratchDatabase) -> None:
    identity, schema = identify(filled), filled.schema()
    before = Precondition.of(identity, owners=schema.trusted_owners)
    filled.execute("CREATE SCHEMA testdb; CREATE TABLE testdb.protected ()")
    with pytest.raises(InvalidTextRepresentation, match=r"\[protected\]"):
        filled.query(before.prove())
    assert filled.query(replace(before, may_be_protected=True).prove()) == []


def test_a_server_that_hides_its_identifier_is_told_by_the_rest_and_the_report_says_so(filled: ScratchDatabase) -> None:
    with filled.superuser() as connection:
        connection.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
    resetter = filled.resetter(to="empty")
    for _ in range(3):
        filled.execute("INSERT INTO shelf (name) VALUES ('more')")
        report = resetter.reset()
    assert filled.count("shelf") == 0
    assert "pg_control_system()" in (report.warning or "")
    assert identify(filled).system_identifier == ""
    with pytest.raises(UnsafeDatabaseError, match="another database of this name"):
        get_backend(filled.connection).data.prove(filled.connection, replace(identify(filled), oid=1), filled.schema())


def test_the_report_says_nothing_where_everything_can_be_proved(filled: ScratchDatabase) -> None:
    assert filled.reset().warning is None
