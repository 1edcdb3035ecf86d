"""Which tables a label or a pattern names."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testdb_app.exceptions import UnknownNameError
from testdb_app.schema import QualifiedName, Schema, Table, TableKind
from testdb_app.selection import select_tables

LABELS = {
    QualifiedName("public", "auth_user"): ("auth.User",),
    QualifiedName("public", "auth_group"): ("auth.Group",),
    QualifiedName("public", "authors"): ("authority.Author", "authority.LivingAuthor"),
    QualifiedName("shop", "Order"): ("shop.Order",),
}
OTHERS = [
    QualifiedName("public", "django_migrations"),
    QualifiedName("my.schema", "a*b"),
    QualifiedName("my.schema", "axb"),
    QualifiedName("my", "schema.a*b"),
    QualifiedName("public", 'quo"te'),
    QualifiedName("archive", "auth_user"),
]


def schema_of(*names: QualifiedName) -> Schema:
    return Schema(vendor="postgresql", tables=tuple(Table(name=name) for name in sorted(names)))


SCHEMA = schema_of(*LABELS, *OTHERS)


def select(*patterns: str) -> set[str]:
    return {f"{name.schema}|{name.name}" for name in select_tables(SCHEMA, LABELS, patterns)}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        # an app
        ("auth", {"public|auth_user", "public|auth_group"}),
        ("AUTH", {"public|auth_user", "public|auth_group"}),
        ("authority", {"public|authors"}),
        # a model, in whatever case
        ("auth.User", {"public|auth_user"}),
        ("Auth.USER", {"public|auth_user"}),
        ("auth.user", {"public|auth_user"}),
        ("authority.livingauthor", {"public|authors"}),
        # a table, exactly
        ("public.auth_user", {"public|auth_user"}),
        ("archive.auth_user", {"archive|auth_user"}),
        ("public.django_migrations", {"public|django_migrations"}),
        ("shop.Order", {"shop|Order"}),
        ('shop."Order"', {"shop|Order"}),
        # shell patterns
        ("auth*", {"public|auth_user", "public|auth_group", "public|authors"}),
        ("auth.*", {"public|auth_user", "public|auth_group"}),
        ("auth.[gG]*", {"public|auth_group"}),
        ("AUTH.*", {"public|auth_user", "public|auth_group"}),
        ("*.auth_user", {"public|auth_user", "archive|auth_user"}),
        ("public.auth_?????", {"public|auth_group"}),
        ("archive.*", {"archive|auth_user"}),
        ("*", {"public|auth_user", "public|auth_group", "public|authors", "shop|Order"}),
        ("*.*", {f"{name.schema}|{name.name}" for name in [*LABELS, *OTHERS]}),
        # quoted: nothing is a pattern, and the dots are where they are
        ('"my.schema"."a*b"', {"my.schema|a*b"}),
        ('"my"."schema.a*b"', {"my|schema.a*b"}),
        ('"auth_user"', {"public|auth_user", "archive|auth_user"}),
        ('"public"."quo""te"', {'public|quo"te'}),
        ('public."quo""te"', {'public|quo"te'}),
        # without quotes a dotted name may be read in two ways, and is a pattern
        ("my.schema.a[*]b", {"my.schema|a*b", "my|schema.a*b"}),
        ("my.schema.a?b", {"my.schema|a*b", "my.schema|axb", "my|schema.a*b"}),
    ],
)
def test_a_pattern_names(pattern: str, expected: set[str]) -> None:
    assert select(pattern) == expected


def test_several_patterns_name_all_that_each_does() -> None:
    assert select("auth.User", "shop", "archive.*") == {"public|auth_user", "shop|Order", "archive|auth_user"}


def test_no_pattern_names_nothing() -> None:
    assert select() == set()


@pytest.mark.parametrize(
    "pattern", ["PUBLIC.auth_user", "public.AUTH_USER", "PUBLIC.*", '"Public"."auth_user"', '"AUTH_USER"']
)
def test_the_case_of_a_tables_name_matters(pattern: str) -> None:
    with pytest.raises(UnknownNameError):
        select(pattern)


@pytest.mark.parametrize(
    ("pattern", "nearest"),
    [
        ("atuh", ["auth"]),
        ("auth.Usr", ["auth.User"]),
        ("AUTH.USR", ["auth.User"]),
        ("public.auth_usr", ["public.auth_user"]),
        ("django_migration", ["public.django_migrations"]),
        ("shop.Ordr", ["shop.Order", 'shop."Order"']),
    ],
)
def test_a_name_that_matches_nothing_is_refused_with_the_nearest(pattern: str, nearest: list[str]) -> None:
    with pytest.raises(UnknownNameError) as caught:
        select("auth", pattern)
    assert caught.value.name == pattern
    assert caught.value.nearest[0] in nearest
    assert caught.value.message.startswith(
        f'"{pattern}" matches no table: this database has no app label, app_label.Model or schema.table of that name. '
        f"Did you mean {caught.value.nearest[0]}"
    )


def test_a_name_that_is_near_to_nothing_is_refused_with_a_place_to_look() -> None:
    with pytest.raises(UnknownNameError, match=r"Run showdeps to list the names\.\Z") as caught:
        select("zzzzzzzzzz")
    assert caught.value.nearest == []


@pytest.mark.parametrize("pattern", ["", ".", "auth.", ".User", "auth.User.x", "[", '"', '"auth_user', "auth\n", "%"])
def test_odd_text_is_a_name_that_matches_nothing(pattern: str) -> None:
    with pytest.raises(UnknownNameError):
        select(pattern)


def partitioned() -> Schema:
    root, branch, leaf, heir = (
        QualifiedName("public", name) for name in ("log", "log_2026", "log_2026_01", "log_heir")
    )
    tables = (
        Table(name=root, kind=TableKind.PARTITIONED),
        Table(name=branch, kind=TableKind.PARTITIONED, is_partition=True, inherits=(root,)),
        Table(name=leaf, is_partition=True, inherits=(branch,)),
        Table(name=heir, inherits=(root,)),
    )
    return Schema(vendor="postgresql", tables=tables)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("public.log", {"log", "log_2026", "log_2026_01"}),
        ("logs.Log", {"log", "log_2026", "log_2026_01"}),
        ("public.log_2026", {"log_2026", "log_2026_01"}),
        ("public.log_2026_01", {"log_2026_01"}),
        ("public.log_heir", {"log_heir"}),
    ],
)
def test_partitions_follow_their_root_and_heirs_do_not(pattern: str, expected: set[str]) -> None:
    labels = {QualifiedName("public", "log"): ("logs.Log",)}
    assert {name.name for name in select_tables(partitioned(), labels, [pattern])} == expected


def test_a_root_and_its_partition_may_both_be_named() -> None:
    found = select_tables(partitioned(), {}, ["public.log_2026", "public.log"])
    assert {name.name for name in found} == {"log", "log_2026", "log_2026_01"}


PARTS = st.text(alphabet=st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=8)
AWKWARD = st.text(alphabet='a.B*?["] ]\n', min_size=1, max_size=5)
NAMES = st.builds(QualifiedName, PARTS | AWKWARD, PARTS | AWKWARD)


def quoted(part: str) -> str:
    return '"' + part.replace('"', '""') + '"'


@settings(deadline=None)
@given(names=st.lists(NAMES, min_size=1, max_size=6, unique=True))
def test_a_name_in_quotes_names_that_table_alone(names: list[QualifiedName]) -> None:
    schema = schema_of(*names)
    for name in names:
        assert select_tables(schema, {}, [f"{quoted(name.schema)}.{quoted(name.name)}"]) == {name}
        assert select_tables(schema, {}, [quoted(name.name)]) == {each for each in names if each.name == name.name}


@settings(deadline=None)
@given(names=st.lists(NAMES, min_size=1, max_size=6, unique=True))
def test_a_name_as_reports_print_it_names_that_table(names: list[QualifiedName]) -> None:
    # What is copied from a report must do; with quotes on both sides it names nothing else.
    schema = schema_of(*names)
    for name in names:
        assert name in select_tables(schema, {}, [str(name)])


@settings(deadline=None)
@given(pattern=st.text(max_size=10))
def test_any_text_is_a_selection_or_an_unknown_name(pattern: str) -> None:
    try:
        found = select_tables(SCHEMA, LABELS, [pattern])
    except UnknownNameError as error:
        assert error.name == pattern
    else:
        assert found <= {table.name for table in SCHEMA.tables}
