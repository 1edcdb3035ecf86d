"""The backend for any other vendor: Django's own introspection and flush, with what it cannot promise said aloud."""

from __future__ import annotations

import pytest
from django.db import transaction

from testdb_app.backends import get_backend
from testdb_app.backends.base import Action, Capture, Mark, ResetPlan, ScriptContext, Step
from testdb_app.backends.generic import BACKEND, qualify
from testdb_app.baseline_state import RowChanges
from testdb_app.exceptions import (
    ConnectionLostError,
    ExclusionError,
    ResetError,
    UnsupportedError,
)
from testdb_app.graph import DependencyGraph
from testdb_app.schema import QualifiedName, SequenceUse

SHOP = (
    "CREATE TABLE publisher (id integer PRIMARY KEY AUTOINCREMENT)",
    'CREATE TABLE "bo%ok" (id integer PRIMARY KEY AUTOINCREMENT, publisher_id integer NOT NULL REFERENCES publisher (id))',
    "INSERT INTO publisher VALUES (7), (8)",
    'INSERT INTO "bo%ok" VALUES (5, 7)',
)


def run(connection, *statements):
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def rows(connection, query):
    with connection.cursor() as cursor:
        cursor.execute(query)
        return list(cursor.fetchall())


def counts(connection, *tables):
    return [rows(connection, f'SELECT COUNT(*) FROM "{table}"')[0][0] for table in tables]


def script(connection, *, within_transaction=False, restart=True, only=None, checks=()):
    schema, seen = BACKEND.read_schema(connection), BACKEND.read_state(connection, lock_timeout=5)
    order = DependencyGraph.from_schema(schema).deletion_order()
    deletes = [name for name in order if name in seen.sizes and (only is None or name.name in only)]
    restarts = sorted(seen.moved) if restart else []
    steps = [Step(action=Action.DELETE, names=(name,)) for name in deletes]
    steps += [Step(action=Action.RESTART, names=(name,)) for name in restarts]
    return BACKEND.write_sql(
        connection,
        ResetPlan(steps=tuple(steps), checks=tuple(checks)),
        ScriptContext(schema=schema, lock_timeout=1, within_transaction=within_transaction),
    )


def reset(connection, *, within_transaction=False, **options):
    planned = script(connection, within_transaction=within_transaction, **options)
    changes = BACKEND.run(connection, planned, within_transaction=within_transaction)
    assert all(done == RowChanges(removed=done.removed) for done in changes.values())
    return {name.name: done.removed for name, done in changes.items()}


class Stranger:
    """A connection of a vendor that has no folder."""

    vendor = "firebird"


def test_a_vendor_without_a_folder_gets_this_backend_with_a_warning_of_what_is_lost():
    backend = get_backend(Stranger())  # type: ignore[arg-type]
    assert backend is BACKEND
    for lost in ("no lock", "triggers fire", "cycle", "sequence", "marks", "not seen"):
        assert lost in (backend.warning or "")


def test_the_map_has_tables_keys_and_sequences(connection):
    run(connection, *SHOP, "CREATE VIEW v AS SELECT 1", "CREATE TABLE plain (x integer REFERENCES nowhere (id))")
    schema = BACKEND.read_schema(connection)
    assert [table.name for table in schema.tables] == [qualify("bo%ok"), qualify("plain"), qualify("publisher")]
    (key,) = schema.foreign_keys
    assert (key.table, key.columns, key.referenced, key.referenced_columns) == (
        qualify("bo%ok"), ("publisher_id",), qualify("publisher"), ("id",),
    )  # fmt: skip
    assert schema.sequences_by_name[qualify("publisher")].uses == (
        SequenceUse(table=qualify("publisher"), column="id", how="identity"),
    )
    assert schema.resolve(None, "publisher") == QualifiedName("", "publisher")


def test_tables_with_rows_are_seen_and_every_sequence_is_said_to_have_moved(connection):
    run(connection, *SHOP, "CREATE TABLE empty (id integer PRIMARY KEY)")
    seen = BACKEND.read_state(connection, lock_timeout=5)
    assert set(seen.sizes) == {qualify("bo%ok"), qualify("publisher")}
    assert seen.moved >= {qualify("bo%ok"), qualify("publisher")}
    assert seen.token == BACKEND.read_schema(connection).token
    assert BACKEND.count_rows(connection, seen.sizes) == {qualify("bo%ok"): 1, qualify("publisher"): 2}


@pytest.mark.parametrize(
    "change",
    [
        "CREATE TABLE x (id)",
        "DROP TABLE b",
        "ALTER TABLE b ADD COLUMN x integer REFERENCES a",
        'CREATE TABLE "q""q" (id)',
    ],
)
def test_the_token_moves_with_tables_and_relations(connection, change):
    run(connection, "CREATE TABLE a (id integer PRIMARY KEY)", "CREATE TABLE b (id integer PRIMARY KEY)")
    token = BACKEND.read_schema(connection).token
    assert BACKEND.read_state(connection, lock_timeout=5).token == token
    run(connection, change)
    assert BACKEND.read_state(connection, lock_timeout=5).token != token


def test_a_reset_empties_in_order_and_restarts(connection):
    run(connection, *SHOP)
    assert reset(connection) == {"bo%ok": 1, "publisher": 2}
    assert counts(connection, "bo%ok", "publisher") == [0, 0]
    run(connection, "INSERT INTO publisher DEFAULT VALUES")
    assert rows(connection, "SELECT id FROM publisher") == [(1,)]
    assert connection.get_autocommit()


def test_sequences_are_left_alone_where_no_step_restarts_them(connection):
    run(connection, *SHOP)
    reset(connection, restart=False)
    assert rows(connection, "SELECT name, seq FROM sqlite_sequence ORDER BY 1") == [("bo%ok", 5), ("publisher", 8)]


def test_a_table_whose_name_django_cannot_quote_is_left_out_with_the_reason(connection):
    run(connection, 'CREATE TABLE "a""b" (id)', 'INSERT INTO "a""b" VALUES (1)', "CREATE TABLE a (id)")
    schema = BACKEND.read_schema(connection)
    assert [(left.name.name, left.reason) for left in schema.left_out] == [('a"b', "Django cannot quote its name")]
    assert reset(connection, restart=False) == {}


def test_rows_that_stay_and_refer_are_refused(connection):
    run(connection, *SHOP)
    keys = BACKEND.read_schema(connection).foreign_keys
    assert BACKEND.count_references(connection, keys) == (1,)
    with pytest.raises(ExclusionError, match=r"publisher.*1 row") as refusal:
        reset(connection, only={"publisher"}, restart=False, checks=keys)
    assert refusal.value.references == [(str(keys[0]), 1)]
    assert counts(connection, "bo%ok", "publisher") == [1, 2]
    assert connection.get_autocommit()


def test_a_statement_that_fails_rolls_back_and_leaves_foreign_keys_checked(connection):
    run(
        connection, *SHOP, "CREATE TABLE z (id integer PRIMARY KEY REFERENCES publisher)",
        "CREATE TRIGGER t BEFORE DELETE ON publisher BEGIN SELECT RAISE(ABORT, 'append only'); END",
    )  # fmt: skip
    with pytest.raises(ResetError, match="append only") as failure:
        reset(connection, restart=False)
    assert failure.value.__cause__ is not None
    assert counts(connection, "bo%ok", "publisher") == [1, 2]
    assert rows(connection, "PRAGMA foreign_keys") == [(1,)]
    assert connection.get_autocommit()


def test_an_interrupt_rolls_back(connection):
    run(connection, *SHOP)
    planned = script(connection, restart=False)

    def interrupt(execute, sql, params, many, context):
        if sql.startswith("DELETE FROM") and "publisher" in sql:
            raise KeyboardInterrupt
        return execute(sql, params, many, context)

    with pytest.raises(KeyboardInterrupt), connection.execute_wrapper(interrupt):
        BACKEND.run(connection, planned, within_transaction=False)
    assert counts(connection, "bo%ok", "publisher") == [1, 2]
    assert reset(connection, restart=False) == {"bo%ok": 1, "publisher": 2}


def test_within_a_transaction_it_is_part_of_it(connection):
    run(connection, *SHOP)
    with transaction.atomic(using=connection.alias):
        reset(connection, within_transaction=True)
        assert counts(connection, "bo%ok", "publisher") == [0, 0]
        transaction.set_rollback(True, using=connection.alias)
    assert counts(connection, "bo%ok", "publisher") == [1, 2]
    with transaction.atomic(using=connection.alias):
        reset(connection, within_transaction=True)
    assert counts(connection, "bo%ok", "publisher") == [0, 0]


def test_a_failure_within_a_transaction_keeps_what_the_caller_did(connection):
    run(
        connection, *SHOP, "CREATE TABLE mine (id)",
        "CREATE TRIGGER t BEFORE DELETE ON publisher BEGIN SELECT RAISE(ABORT, 'append only'); END",
    )  # fmt: skip
    with transaction.atomic(using=connection.alias):
        run(connection, "INSERT INTO mine VALUES (1)")
        with pytest.raises(ResetError):
            reset(connection, within_transaction=True, restart=False, only={"bo%ok", "publisher"})
    assert counts(connection, "mine", "bo%ok", "publisher") == [1, 1, 2]


def test_with_autocommit_off_the_commit_is_left_to_the_caller(connection):
    run(connection, *SHOP)
    connection.set_autocommit(False)
    reset(connection, within_transaction=True)
    connection.rollback()
    connection.set_autocommit(True)
    assert counts(connection, "bo%ok", "publisher") == [1, 2]


def test_a_lost_connection_is_said_to_be_lost(connection):
    run(connection, "CREATE TABLE a (id)", "INSERT INTO a VALUES (1)")
    planned = script(connection, restart=False)
    connection.connection.close()
    connection.is_usable = lambda: False
    with pytest.raises(ConnectionLostError, match="closed"):
        BACKEND.run(connection, planned, within_transaction=False)


def test_what_a_vendor_without_a_folder_lacks_is_refused_and_advises_only_what_there_is(connection):
    run(connection, *SHOP)
    with pytest.raises(UnsupportedError, match=r"ALLOWED_DATABASES.*--allow-database"):
        BACKEND.set_mark(connection, Mark.TEST, present=True)
    capture = Capture(
        schema=BACKEND.read_schema(connection),
        tables=frozenset(),
        sequences=frozenset(),
        excluded=frozenset(),
        lock_timeout=1,
    )
    with pytest.raises(UnsupportedError, match=r"A baseline is not supported on SQLite.*Reset to empty"):
        BACKEND.write_baseline(connection, capture)
    assert BACKEND.read_baseline(connection) is None
    BACKEND.drop_baseline(connection)


def test_what_would_commit_the_callers_transaction_is_refused(connection, monkeypatch):
    run(connection, *SHOP)
    monkeypatch.setattr(
        connection.ops,
        "sequence_reset_by_name_sql",
        lambda style, sequences: ["ALTER TABLE publisher AUTO_INCREMENT = 1"],
    )
    monkeypatch.setattr(connection.features, "can_rollback_ddl", False)
    with pytest.raises(UnsupportedError, match=r"would end it by ALTER TABLE publisher .*reset_sequences=False"):
        script(connection, within_transaction=True)
    assert script(connection, within_transaction=True, restart=False).body
    assert script(connection).closing


def test_sequences_that_a_vendor_cannot_reset_are_refused(connection, monkeypatch):
    run(connection, *SHOP)
    monkeypatch.setattr(connection.ops, "sequence_reset_by_name_sql", lambda style, sequences: [])
    with pytest.raises(UnsupportedError, match="--no-reset-sequences"):
        script(connection)


def test_the_identity_is_the_settings_name_where_the_database_cannot_be_asked(connection):
    connection.settings_dict.update(HOST="db.example", PORT="3050", USER="ada")
    identity = BACKEND.identify(connection)
    assert identity.name == identity.configured == str(connection.settings_dict["NAME"])
    assert (identity.server, identity.user, identity.marks) == ("SQLite on db.example:3050", "ada", frozenset())


@pytest.mark.parametrize(("vendor", "live"), [("mysql", "shop"), ("oracle", "ADA")])
def test_the_live_name_is_asked_where_the_way_is_known(connection, monkeypatch, vendor, live):
    # SQLite takes the place of the server: the functions are given to it, and the vendor's name.
    connection.ensure_connection()
    connection.connection.create_function("DATABASE", 0, lambda: "shop")
    connection.connection.create_function("SYS_CONTEXT", 2, lambda space, name: {"SESSION_USER": "ADA"}[name])
    run(connection, "CREATE TABLE dual (x)", "INSERT INTO dual VALUES (1)")
    monkeypatch.setattr(connection, "vendor", vendor)
    connection.settings_dict["USER"] = "ada"
    identity = BACKEND.identify(connection)
    assert identity.name == live
    assert identity.names_differ == (vendor == "mysql")


def test_what_data_helpers_can_have_of_any_backend(connection):
    data = BACKEND.data
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE a (id integer PRIMARY KEY, name text)")
        cursor.execute(
            'CREATE TABLE "b %" (id integer PRIMARY KEY, "a %" integer REFERENCES a (id) DEFERRABLE INITIALLY DEFERRED)'
        )
    schema = data.read_schema(connection, None)
    a, b = (table.name for table in schema.tables)
    assert data.read_keys(connection, [a, b]) == {a: ("id",), b: ("id",)}
    with transaction.atomic(using=connection.alias):
        assert data.insert_rows(connection, a, ["id", "name"], iter([(1, "x"), (2, "y")])) == 2
        assert data.insert_rows(connection, b, ["id", "a %"], [(1, 1), (2, 9)]) == 2
        (violation,) = data.find_violations(connection, schema, 20)
        assert violation.kind == "constraint"
        assert "b %" in violation.detail
        assert data.delete_together(connection, [(b, "id IN (%s, %s)", [1, 2]), (a, "id = %s", [1])]) == [2, 1]
        assert data.find_violations(connection, schema, 20) == []
    (found,) = data.compare_with_baseline(connection, None, [a, b], 20)
    assert (found.table, found.added) == (a, 1)
    for refuse in (
        lambda: data.store_state(connection, None),
        lambda: data.reserve_keys(connection, "a", "id", 1),
        lambda: data.find_late_sequences(connection, schema),
    ):
        with pytest.raises(UnsupportedError, match="Not supported on SQLite"):
            refuse()
