"""The schema as a value: what equals what, what is found by which name."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testdb_app.schema import (
    ForeignKey,
    LeftOut,
    OnDelete,
    QualifiedName,
    Schema,
    SequenceInfo,
    SequenceUse,
    Table,
    TableKind,
    Trigger,
)

A, B, C = (QualifiedName("public", name) for name in "abc")


def make_key(**changes: object) -> ForeignKey:
    given = {"name": "k", "table": A, "columns": ("b_id",), "referenced": B, "referenced_columns": ("id",)}
    return ForeignKey(**{**given, **changes})  # type: ignore[arg-type]


def make_schema(**changes: object) -> Schema:
    given = {
        "vendor": "postgresql",
        "tables": (Table(name=A), Table(name=B)),
        "foreign_keys": (make_key(),),
        "sequences": (SequenceInfo(name=C, uses=(SequenceUse(table=A, column="id", how="identity"),)),),
        "search_path": ("public",),
    }
    return Schema(**{**given, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("schema", "name", "text"),
    [
        ("public", "loan", "public.loan"),
        ("public", "Loan", 'public."Loan"'),
        ("my schema", "a.b", '"my schema"."a.b"'),
        ("s", 'say "hi"', 's."say ""hi"""'),
        ("s", "1st", 's."1st"'),
        ("s", "größe", "s.größe"),
    ],
)
def test_a_name_is_quoted_for_people_only_where_it_would_read_as_something_else(
    schema: str, name: str, text: str
) -> None:
    assert str(QualifiedName(schema, name)) == text


@settings(deadline=None)
@given(st.tuples(st.text('a".B ', max_size=4), st.text('a".B ', max_size=4)), st.text('a".B ', max_size=9))
def test_two_names_never_read_alike(one: tuple[str, str], text: str) -> None:
    schema, _, name = text.partition(".")
    other = (schema, name)
    assert (str(QualifiedName(*one)) == str(QualifiedName(*other))) == (one == other)


def test_tables_sort_by_schema_and_then_by_name() -> None:
    names = [QualifiedName("b", "a"), QualifiedName("a", "b"), QualifiedName("a", "B")]
    assert sorted(names) == [QualifiedName("a", "B"), QualifiedName("a", "b"), QualifiedName("b", "a")]


def test_a_bare_name_is_looked_up_along_the_search_path_in_its_order() -> None:
    tables = tuple(Table(name=QualifiedName(schema, "t")) for schema in ("one", "two", "three"))
    schema = make_schema(tables=tables, search_path=("missing", "two", "one"))
    assert schema.resolve(None, "t") == QualifiedName("two", "t")
    assert schema.resolve("three", "t") == QualifiedName("three", "t")


@pytest.mark.parametrize(("schema_name", "name"), [(None, "A"), (None, "public.a"), ("other", "a"), ("", "a")])
def test_a_name_that_is_not_exactly_there_is_not_found(schema_name: str | None, name: str) -> None:
    assert make_schema().resolve(schema_name, name) is None


def test_a_table_off_the_search_path_is_not_found_by_its_bare_name() -> None:
    schema = make_schema(tables=(Table(name=QualifiedName("tenant", "t")),))
    assert schema.resolve(None, "t") is None
    assert schema.resolve("tenant", "t") is not None


@pytest.mark.parametrize(
    ("action", "expected"),
    [("NO ACTION", False), ("RESTRICT", False), ("CASCADE", True), ("SET NULL", True), ("SET DEFAULT", True)],
)
def test_only_actions_that_write_change_rows(action: str, expected: bool) -> None:
    assert OnDelete(action).changes_rows is expected


@pytest.mark.parametrize(
    ("enabled", "fires"), [("origin", True), ("always", True), ("replica", False), ("disabled", False)]
)
def test_a_trigger_fires_on_its_events_unless_it_is_off_for_ordinary_sessions(enabled: str, fires: bool) -> None:
    trigger = Trigger(name="t", events=("DELETE", "INSERT"), enabled=enabled)
    assert trigger.fires_on("DELETE") is fires
    assert not trigger.fires_on("TRUNCATE")


def test_a_partitioned_table_stores_no_rows_itself() -> None:
    assert not Table(name=A, kind=TableKind.PARTITIONED).stores_rows
    assert Table(name=A, is_partition=True).stores_rows
    assert Table(name=A, kind=TableKind.VIRTUAL).stores_rows


def test_partitions_are_the_direct_ones_and_inheritance_children_are_none() -> None:
    schema = make_schema(
        tables=(
            Table(name=A, kind=TableKind.PARTITIONED),
            Table(name=B, kind=TableKind.PARTITIONED, is_partition=True, inherits=(A,)),
            Table(name=C, is_partition=True, inherits=(B,)),
            Table(name=QualifiedName("public", "child"), inherits=(A,)),
        )
    )
    assert schema.partitions == {A: (B,), B: (C,)}


def test_referencing_has_each_key_under_the_table_it_points_at() -> None:
    one, two, loop = make_key(), make_key(name="k2", table=C), make_key(name="loop", referenced=A)
    schema = make_schema(foreign_keys=(one, two, loop))
    assert schema.referencing == {B: (one, two), A: (loop,)}


def test_the_copies_for_partitions_are_not_declared_keys() -> None:
    declared, copy = make_key(), make_key(name="copy", inherited=True)
    assert make_schema(foreign_keys=(declared, copy)).declared_foreign_keys == (declared,)


def test_the_tables_and_the_sequences_are_found_by_name() -> None:
    schema = make_schema()
    assert schema.by_name[A] is schema.tables[0]
    assert schema.sequences_by_name[C].tables == {A}


def test_the_token_does_not_make_two_schemas_differ() -> None:
    assert make_schema(token="1") == make_schema(token="2")
    assert hash(make_schema(token="1")) == hash(make_schema(token="2"))


def test_a_schema_survives_pickling_with_its_token() -> None:
    schema = make_schema(left_out=(LeftOut(name=C, reason="foreign table"),), token="1")
    copy = pickle.loads(pickle.dumps(schema))
    assert (copy, copy.token) == (schema, "1")


def test_a_schema_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        make_schema().tables = ()  # type: ignore[misc]


def test_a_key_reads_as_from_columns_to_columns() -> None:
    key = make_key(columns=("x", "y"), referenced_columns=("id", "version"))
    assert str(key) == "public.a(x, y) → public.b(id, version)"
