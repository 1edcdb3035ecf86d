"""Which models stand behind which tables, and where models and database disagree on a foreign key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from django.apps import apps as installed_apps
from django.contrib.contenttypes.fields import GenericForeignKey, GenericRelation
from django.contrib.contenttypes.models import ContentType
from django.db import connections, models
from django.db.utils import ConnectionHandler
from django.test.utils import isolate_apps

from testdb_app import model_tables
from testdb_app.backends import get_backend
from testdb_app.model_tables import (
    DisagreementKind,
    ModelIndex,
    foreign_key_disagreements,
    index_models,
    split_db_table,
)
from testdb_app.schema import DerivedRelation, ForeignKey, LeftOut, QualifiedName, Schema, Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from django.apps.registry import Apps
    from django.db.backends.base.base import BaseDatabaseWrapper

# Real wrappers that never connect: how a vendor treats names does not depend on a server.
_HANDLER = ConnectionHandler(
    {
        "default": {"ENGINE": "django.db.backends.postgresql", "NAME": "not connected"},
        "other": {"ENGINE": "django.db.backends.postgresql", "NAME": "not connected"},
        "sqlite": {"ENGINE": "django.db.backends.sqlite3", "NAME": "not connected"},
    }
)
POSTGRESQL, SQLITE = _HANDLER["default"], _HANDLER["sqlite"]


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Apps]:
    """A registry of its own, with the models that the test defines and no others."""
    with isolate_apps("testdb_app.demo", "django.contrib.sites") as apps:
        monkeypatch.setattr(model_tables, "apps", apps)
        yield apps


def schema_of(*names: str, keys: tuple[ForeignKey, ...] = (), **attributes: Any) -> Schema:
    """A schema of tables, "name" (in public) or "schema.name"."""
    given = {"vendor": "postgresql", "search_path": ("public",), **attributes}
    return Schema(tables=tuple(Table(name=name) for name in sorted(map(qualified, names))), foreign_keys=keys, **given)


def qualified(name: str) -> QualifiedName:
    schema, _, bare = name.rpartition(".")
    return QualifiedName(schema or "public", bare)


def make_key(source: str, columns: str, target: str, referenced: str = "id", **attributes: Any) -> ForeignKey:
    return ForeignKey(
        name=f"{source}_{columns}_fk",
        table=qualified(source),
        columns=tuple(columns.split()),
        referenced=qualified(target),
        referenced_columns=tuple(referenced.split()),
        **attributes,
    )


def model(name: str, *bases: type[models.Model], **attributes: Any) -> type[models.Model]:
    """Define a model; upper-case *attributes* are options of its Meta."""
    meta = {key.lower(): attributes.pop(key) for key in list(attributes) if key.isupper()}
    meta.setdefault("app_label", "testdb_demo")
    namespace = {"__module__": __name__, "Meta": type("Meta", (), meta), **attributes}
    return type(name, bases or (models.Model,), namespace)


def labels(index: ModelIndex) -> dict[str, tuple[str, ...]]:
    return {str(table): found for table, found in index.labels_by_table.items()}


@pytest.mark.parametrize(
    ("db_table", "expected"),
    [
        ("loan", (None, "loan")),
        ("Loan", (None, "Loan")),
        ('"s"."t"', ("s", "t")),
        ('s"."t', ("s", "t")),
        ('"T"', (None, "T")),
        ('"my ""s"""."t.x"', ('my "s"', "t.x")),
        ("s.t", (None, "s.t")),
        ('a"b', (None, 'a"b')),
        ('"a"."b"."c"', (None, '"a"."b"."c"')),
        ('"', (None, '"')),
        ("new\nline", (None, "new\nline")),
    ],
)
def test_the_table_of_a_model_is_read_as_sql_reads_it(db_table: str, expected: tuple[str | None, str]) -> None:
    assert split_db_table(db_table) == expected


@pytest.mark.usefixtures("registry")
def test_tables_are_found_bare_on_the_search_path_and_qualified_off_it() -> None:
    model("Bare", DB_TABLE="bare")
    model("Second", DB_TABLE="second")
    model("Trick", DB_TABLE='tenant"."trick')
    model("Quoted", DB_TABLE='"Tenant"."Trick"')
    model("OffPath", DB_TABLE="trick")
    schema = schema_of(
        "one.bare", "two.bare", "two.second", "tenant.trick", "Tenant.Trick", search_path=("missing", "one", "two")
    )
    index = index_models(POSTGRESQL, schema)
    assert labels(index) == {
        "one.bare": ("testdb_demo.Bare",),
        "two.second": ("testdb_demo.Second",),
        "tenant.trick": ("testdb_demo.Trick",),
        '"Tenant"."Trick"': ("testdb_demo.Quoted",),
    }
    assert index.models_without_table == (("testdb_demo.OffPath", "trick"),)
    assert index.tables_without_model == (QualifiedName("two", "bare"),)


@pytest.mark.usefixtures("registry")
def test_capitals_count_on_postgresql_and_not_on_sqlite() -> None:
    model("Loan", DB_TABLE="Loan")
    model("Street", DB_TABLE="STRASSE_ß")
    schema = schema_of("loan", "strasse_ß")
    assert labels(index_models(POSTGRESQL, schema)) == {}
    assert labels(index_models(SQLITE, schema)) == {
        "public.loan": ("testdb_demo.Loan",),
        "public.strasse_ß": ("testdb_demo.Street",),
    }
    model("Accent", DB_TABLE="É")
    assert index_models(SQLITE, schema_of("é")).labels_by_table == {}


@pytest.mark.usefixtures("registry")
def test_a_name_that_postgresql_cuts_at_63_bytes_is_found_cut_and_never_inside_a_character() -> None:
    model("Long", DB_TABLE="x" * 70)
    model("Wide", DB_TABLE="x" + "é" * 40)
    names = ("x" * 63, "x" + "é" * 31)
    assert sorted(labels(index_models(POSTGRESQL, schema_of(*names))).values()) == [
        ("testdb_demo.Long",),
        ("testdb_demo.Wide",),
    ]
    assert labels(index_models(SQLITE, schema_of(*names))) == {}


@pytest.mark.usefixtures("registry")
def test_what_stands_before_a_table_on_the_search_path_hides_it() -> None:
    model("Report", DB_TABLE="report")
    schema = schema_of(
        "two.report",
        search_path=("one", "two"),
        left_out=(LeftOut(name=QualifiedName("one", "report"), reason="foreign table"),),
    )
    assert labels(index_models(POSTGRESQL, schema)) == {}


@pytest.mark.usefixtures("registry")
def test_automatic_many_to_many_tables_have_a_label_of_their_own() -> None:
    genre = model("Genre", DB_TABLE="genre")
    model("Work", DB_TABLE="work", genres=models.ManyToManyField(genre))
    index = index_models(POSTGRESQL, schema_of("genre", "work", "work_genres"))
    assert labels(index)["public.work_genres"] == ("testdb_demo.Work_genres",)
    assert index.tables_without_model == ()


@pytest.mark.usefixtures("registry")
def test_a_proxy_goes_with_its_concrete_table_and_is_never_without_one() -> None:
    concrete = model("Work", DB_TABLE="work")
    model("AProxy", concrete, PROXY=True)
    index = index_models(POSTGRESQL, schema_of("work"))
    assert index.labels_of(qualified("work")) == ("testdb_demo.Work", "testdb_demo.AProxy")
    assert index_models(POSTGRESQL, schema_of()).models_without_table == (("testdb_demo.Work", "work"),)


@pytest.mark.usefixtures("registry")
def test_multi_table_inheritance_has_two_tables() -> None:
    parent = model("Work", DB_TABLE="work")
    model("Book", parent, DB_TABLE="book")
    assert labels(index_models(POSTGRESQL, schema_of("work", "book"))) == {
        "public.book": ("testdb_demo.Book",),
        "public.work": ("testdb_demo.Work",),
    }


@pytest.mark.usefixtures("registry")
def test_an_unmanaged_model_comes_after_the_managed_one_of_its_table() -> None:
    model("AView", DB_TABLE="work", MANAGED=False)
    model("Work", DB_TABLE="work")
    index = index_models(POSTGRESQL, schema_of("work"))
    assert index.labels_of(qualified("work")) == ("testdb_demo.Work", "testdb_demo.AView")
    assert index.unmanaged == {"testdb_demo.AView"}


@pytest.mark.usefixtures("registry")
def test_a_model_of_a_view_or_a_foreign_table_is_not_without_a_table() -> None:
    model("Foreign", DB_TABLE="far", MANAGED=False)
    model("Summary", DB_TABLE="summary", MANAGED=False)
    model("Plain", DB_TABLE="plain_view", MANAGED=False)
    schema = schema_of(
        left_out=(LeftOut(name=qualified("far"), reason="foreign table"),),
        materialized_views=(DerivedRelation(name=qualified("summary"), tables=()),),
    )
    assert index_models(POSTGRESQL, schema).models_without_table == (("testdb_demo.Plain", "plain_view"),)


@pytest.mark.usefixtures("registry")
def test_a_model_that_is_swapped_out_is_left_out(settings: Any) -> None:
    settings.TESTDB_DEMO_MODEL = "sites.Chosen"
    model("Default", DB_TABLE="default_model", SWAPPABLE="TESTDB_DEMO_MODEL")
    model("Chosen", DB_TABLE="chosen", APP_LABEL="sites")
    index = index_models(POSTGRESQL, schema_of("chosen", "default_model"))
    assert labels(index) == {"public.chosen": ("sites.Chosen",)}
    assert index.tables_without_model == (qualified("default_model"),)


@pytest.mark.usefixtures("registry")
def test_a_model_that_needs_another_vendor_or_feature_is_left_out() -> None:
    model("OnlyPostgres", DB_TABLE="p", REQUIRED_DB_VENDOR="postgresql")
    model("OnlySqlite", DB_TABLE="s", REQUIRED_DB_VENDOR="sqlite")
    model("Impossible", DB_TABLE="i", REQUIRED_DB_FEATURES=["no_such_feature"])
    assert index_models(POSTGRESQL, schema_of()).models_without_table == (("testdb_demo.OnlyPostgres", "p"),)
    assert index_models(SQLITE, schema_of()).models_without_table == (("testdb_demo.OnlySqlite", "s"),)


class SitesElsewhere:
    """Sends the app "sites" to the alias "other", and says nothing of automatic tables."""

    def allow_migrate(self, db: str, app_label: str, model_name: str | None = None, **hints: Any) -> bool | None:
        assert model_name is None or "_" not in model_name
        return (db == "other") is (app_label == "sites")


@pytest.mark.usefixtures("registry")
def test_only_models_that_the_routers_send_here_count(settings: Any) -> None:
    settings.DATABASE_ROUTERS = [SitesElsewhere()]
    here = model("Here", DB_TABLE="here")
    model("There", DB_TABLE="there", APP_LABEL="sites", heres=models.ManyToManyField(here))
    model("Proxy", here, PROXY=True, APP_LABEL="sites")
    schema = schema_of("here", "there", "there_heres")
    assert labels(index_models(POSTGRESQL, schema)) == {"public.here": ("testdb_demo.Here", "sites.Proxy")}
    assert labels(index_models(_HANDLER["other"], schema)) == {
        "public.there": ("sites.There",),
        "public.there_heres": ("sites.There_heres",),
    }


@pytest.mark.usefixtures("registry")
def test_the_history_of_migrations_is_known_and_not_missed_where_there_is_none() -> None:
    index = index_models(POSTGRESQL, schema_of("django_migrations"))
    assert labels(index) == {"public.django_migrations": ("migrations.Migration",)}
    assert index_models(POSTGRESQL, schema_of()).models_without_table == ()


@pytest.mark.usefixtures("registry")
def test_partitions_and_an_extensions_tables_are_not_tables_without_a_model() -> None:
    root = QualifiedName("public", "root")
    schema = Schema(
        vendor="postgresql",
        tables=(
            Table(name=qualified("child"), inherits=(root,)),
            Table(name=qualified("lost"), is_partition=True, inherits=(qualified("gone"),)),
            Table(name=qualified("part"), is_partition=True, inherits=(root,)),
            Table(name=root),
            Table(name=qualified("spatial_ref_sys"), extension="postgis"),
        ),
    )
    index = index_models(POSTGRESQL, schema)
    assert index.tables_without_model == (qualified("child"), qualified("lost"), root)


def disagreements(
    schema: Schema, connection: BaseDatabaseWrapper = POSTGRESQL
) -> list[tuple[DisagreementKind, str, str | None, str]]:
    index = index_models(connection, schema)
    return [
        (found.kind, found.label.partition(".")[2], found.field, str(found))
        for found in foreign_key_disagreements(index, schema, connection)
    ]


def loans(**attributes: Any) -> None:
    """Two models, Loan → Member."""
    member = model("Member", DB_TABLE="member")
    model("Loan", DB_TABLE="loan", member=models.ForeignKey(member, models.CASCADE, **attributes))


@pytest.mark.usefixtures("registry")
def test_a_key_that_both_have_is_no_disagreement() -> None:
    loans()
    assert disagreements(schema_of("loan", "member", keys=(make_key("loan", "member_id", "member"),))) == []


@pytest.mark.usefixtures("registry")
def test_a_key_that_the_database_lacks_is_named_with_field_table_and_remedy() -> None:
    loans()
    assert disagreements(schema_of("loan", "member")) == [
        (
            DisagreementKind.MISSING,
            "Loan",
            "member",
            (
                "testdb_demo.Loan.member declares a foreign key to public.member(id), but public.loan(member_id) has none "
                "in the database. Add it in a migration, or set db_constraint=False on the field."
            ),
        )
    ]


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize(
    ("key", "text"),
    [
        (make_key("loan", "member_id", "person"), "public.loan(member_id) → public.person(id)"),
        (make_key("loan", "member_id", "member", "number"), "public.loan(member_id) → public.member(number)"),
        (make_key("loan", "member_id", "old.member"), "public.loan(member_id) → old.member(id)"),
    ],
)
def test_a_key_to_another_table_column_or_schema_is_one_disagreement_not_two(key: ForeignKey, text: str) -> None:
    loans()
    assert disagreements(schema_of("loan", "member", "person", "old.member", keys=(key,))) == [
        (
            DisagreementKind.ELSEWHERE,
            "Loan",
            "member",
            (
                "testdb_demo.Loan.member declares a foreign key to public.member(id), but in the database "
                f'"loan_member_id_fk" is {text}. Change the key in a migration, or change the field.'
            ),
        )
    ]


@pytest.mark.usefixtures("registry")
def test_a_key_that_no_field_declares_is_named() -> None:
    model("Member", DB_TABLE="member")
    model("Loan", DB_TABLE="loan")
    assert disagreements(schema_of("loan", "member", keys=(make_key("loan", "member_id", "member"),))) == [
        (
            DisagreementKind.UNDECLARED,
            "Loan",
            None,
            (
                'The database has the foreign key "loan_member_id_fk", public.loan(member_id) → public.member(id), but no '
                "field of testdb_demo.Loan declares it. Add one to the model, or drop the key in a migration."
            ),
        )
    ]


@pytest.mark.usefixtures("registry")
def test_without_db_constraint_a_missing_key_is_right_and_a_present_one_is_not() -> None:
    loans(db_constraint=False)
    assert disagreements(schema_of("loan", "member")) == []
    assert disagreements(schema_of("loan", "member", keys=(make_key("loan", "member_id", "member"),))) == [
        (
            DisagreementKind.UNDECLARED,
            "Loan",
            "member",
            (
                'The database has the foreign key "loan_member_id_fk", public.loan(member_id) → public.member(id), but '
                "testdb_demo.Loan.member says db_constraint=False. Remove that, or drop the key in a migration."
            ),
        )
    ]


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize(("present", "lacking"), [("member", "testdb_demo.Loan"), ("loan", "testdb_demo.Member")])
def test_where_a_table_is_missing_migrate_is_the_remedy(present: str, lacking: str) -> None:
    loans()
    ((kind, *_, text),) = disagreements(schema_of(present))
    assert kind is DisagreementKind.NO_TABLE
    assert text.endswith(f"but {lacking} has no table in this database. Run `manage.py migrate` for it.")


@pytest.mark.usefixtures("registry")
def test_to_field_and_db_column_are_what_is_compared() -> None:
    member = model("Member", DB_TABLE="member", number=models.IntegerField(unique=True, db_column="no"))
    model(
        "Loan",
        DB_TABLE="loan",
        member=models.ForeignKey(member, models.CASCADE, to_field="number", db_column="by"),
    )
    assert disagreements(schema_of("loan", "member", keys=(make_key("loan", "by", "member", "no"),))) == []


@pytest.mark.usefixtures("registry")
def test_the_fields_of_many_to_many_tables_and_of_inheritance_are_compared() -> None:
    genre = model("Genre", DB_TABLE="genre")
    work = model("Work", DB_TABLE="work", genres=models.ManyToManyField(genre))
    model("Book", work, DB_TABLE="book")
    keys = (
        make_key("book", "work_ptr_id", "work"),
        make_key("work_genres", "genre_id", "genre"),
        make_key("work_genres", "work_id", "work"),
    )
    everything = ("book", "genre", "work", "work_genres")
    assert disagreements(schema_of(*everything, keys=keys)) == []
    assert [found[1:3] for found in disagreements(schema_of(*everything))] == [
        ("Book", "work_ptr"),
        ("Work_genres", "work"),
        ("Work_genres", "genre"),
    ]


@pytest.mark.usefixtures("registry")
def test_generic_relations_declare_nothing() -> None:
    model(
        "Review",
        DB_TABLE="review",
        content_type=models.ForeignKey(ContentType, models.CASCADE, db_constraint=False),
        object_id=models.IntegerField(),
        subject=GenericForeignKey(),
    )
    model("Work", DB_TABLE="work", reviews=GenericRelation("testdb_demo.Review"))
    assert disagreements(schema_of("review", "work")) == []


@pytest.mark.usefixtures("registry")
def test_a_relation_over_several_columns_allows_a_key_but_expects_none() -> None:
    copy = model("Copy", DB_TABLE="copy", work=models.IntegerField(), number=models.IntegerField())
    model(
        "Loan",
        DB_TABLE="loan",
        work=models.IntegerField(),
        number=models.IntegerField(),
        copy=models.ForeignObject(copy, models.CASCADE, ["work", "number"], ["work", "number"]),
    )
    assert disagreements(schema_of("loan", "copy")) == []
    turned = make_key("loan", "number work", "copy", "number work")
    assert disagreements(schema_of("loan", "copy", keys=(turned,))) == []
    crossed = make_key("loan", "number work", "copy", "work number")
    assert [found[0] for found in disagreements(schema_of("loan", "copy", keys=(crossed,)))] == [
        "not declared by the model"
    ]


@pytest.mark.usefixtures("registry")
def test_references_to_models_of_another_alias_are_left_alone_but_a_key_may_be_there(settings: Any) -> None:
    settings.DATABASE_ROUTERS = [SitesElsewhere()]
    far = model("Far", DB_TABLE="far", APP_LABEL="sites")
    model("Near", DB_TABLE="near", far=models.ForeignKey(far, models.CASCADE))
    assert disagreements(schema_of("near")) == []
    assert disagreements(schema_of("near", "far", keys=(make_key("near", "far_id", "far"),))) == []


@pytest.mark.usefixtures("registry")
def test_references_to_views_and_foreign_tables_expect_no_key() -> None:
    view = model("View", DB_TABLE="a_view", MANAGED=False)
    foreign = model("Foreign", DB_TABLE="far")
    model(
        "Loan",
        DB_TABLE="loan",
        view=models.ForeignKey(view, models.DO_NOTHING),
        foreign=models.ForeignKey(foreign, models.DO_NOTHING),
    )
    left_out = (LeftOut(name=qualified("far"), reason="foreign table"),)
    assert disagreements(schema_of("loan", left_out=left_out)) == []


@pytest.mark.usefixtures("registry")
def test_unmanaged_models_are_not_held_to_anything_but_may_declare_a_key_for_a_managed_one() -> None:
    member = model("Member", DB_TABLE="member")
    model("Legacy", DB_TABLE="legacy", MANAGED=False, member=models.ForeignKey(member, models.CASCADE))
    keys = (make_key("legacy", "other_id", "member"),)
    assert disagreements(schema_of("legacy", "member", keys=keys)) == []
    model("Loan", DB_TABLE="loan")
    model("FullLoan", DB_TABLE="loan", MANAGED=False, member=models.ForeignKey(member, models.CASCADE))
    assert disagreements(schema_of("loan", "member", keys=(make_key("loan", "member_id", "member"),))) == []


@pytest.mark.usefixtures("registry")
def test_copies_for_partitions_satisfy_a_model_and_need_no_declaration() -> None:
    loans()
    copy = make_key("loan", "member_id", "member", inherited=True)
    assert disagreements(schema_of("loan", "member", keys=(copy,))) == []
    other = make_key("loan", "place_id", "member", inherited=True)
    assert disagreements(schema_of("loan", "member", keys=(copy, other))) == []


@pytest.mark.usefixtures("registry")
def test_keys_of_tables_that_no_model_knows_are_nobodys_business() -> None:
    model("Member", DB_TABLE="member")
    assert disagreements(schema_of("other", "member", keys=(make_key("other", "member_id", "member"),))) == []


@pytest.mark.usefixtures("registry")
def test_the_case_of_columns_counts_on_postgresql_and_not_on_sqlite() -> None:
    loans()
    schema = schema_of("loan", "member", keys=(make_key("loan", "Member_ID", "member", "ID"),))
    assert disagreements(schema, SQLITE) == []
    assert [found[0] for found in disagreements(schema)] == ["missing in the database", "not declared by the model"]


@pytest.mark.usefixtures("registry")
def test_two_fields_to_one_table_are_told_apart_by_their_columns() -> None:
    member = model("Member", DB_TABLE="member")
    model(
        "Loan",
        DB_TABLE="loan",
        lender=models.ForeignKey(member, models.CASCADE, related_name="+"),
        borrower=models.ForeignKey(member, models.CASCADE, related_name="+"),
    )
    found = disagreements(schema_of("loan", "member", keys=(make_key("loan", "lender_id", "member"),)))
    assert [entry[1:3] for entry in found] == [("Loan", "borrower")]


@pytest.mark.usefixtures("registry")
def test_where_a_database_has_no_foreign_keys_there_is_nothing_to_compare(monkeypatch: pytest.MonkeyPatch) -> None:
    loans()
    monkeypatch.setattr(POSTGRESQL.features, "supports_foreign_keys", False)
    assert disagreements(schema_of("loan", "member")) == []


@pytest.mark.django_db
def test_on_the_real_database_every_model_has_its_table_and_nothing_disagrees() -> None:
    connection = connections["default"]
    schema = get_backend(connection).read_schema(connection)
    index = index_models(connection, schema)
    assert index.models_without_table == ()
    assert index.tables_without_model == ()
    assert foreign_key_disagreements(index, schema, connection) == ()
    expected = {found._meta.label for found in installed_apps.get_models(include_auto_created=True)}
    assert {label for found in index.labels_by_table.values() for label in found} == expected | {"migrations.Migration"}


@pytest.mark.django_db
def test_indexing_and_comparing_ask_the_database_nothing(django_assert_num_queries: Any) -> None:
    connection = connections["default"]
    schema = get_backend(connection).read_schema(connection)
    with django_assert_num_queries(0):
        foreign_key_disagreements(index_models(connection, schema), schema, connection)
