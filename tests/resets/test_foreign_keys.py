"""Foreign keys: rows of excluded tables are never deleted by a cascade, and cycles are emptied without a privilege.

They are read from ``pg_catalog`` by OID, so that equal constraint names and other schemas lead to no false edge.
"""

from __future__ import annotations

import pytest

from testdb_app.backends.base import Action
from testdb_app.exceptions import ExclusionError, ResetError

CHAIN = """
CREATE TABLE publisher (id serial PRIMARY KEY);
CREATE TABLE book (id serial PRIMARY KEY, publisher_id int NOT NULL REFERENCES publisher {action});
CREATE TABLE loan (id serial PRIMARY KEY, book_id int NOT NULL REFERENCES book);
INSERT INTO publisher DEFAULT VALUES; INSERT INTO publisher DEFAULT VALUES;
"""


def test_an_empty_excluded_table_that_references_the_target_does_not_hinder(scratch):
    scratch.execute(CHAIN.format(action=""))
    report = scratch.reset(exclude=["public.book"])
    assert [str(table.name) for table in report.tables] == ["public.publisher"]
    assert scratch.count("publisher") == 0


def test_truncate_refuses_when_an_excluded_table_references_the_target(scratch):
    scratch.execute(CHAIN.format(action=""))
    with pytest.raises(
        ResetError, match=r"TRUNCATE cannot empty .* without public\.book.*public\.book\(publisher_id\)"
    ):
        scratch.reset(exclude=["public.book"], strategy="truncate")
    assert scratch.count("publisher") == 2


@pytest.mark.parametrize("action", ["", "ON DELETE CASCADE", "ON DELETE RESTRICT", "ON DELETE SET DEFAULT"])
@pytest.mark.parametrize("strategy", ["auto", "delete"])
def test_rows_of_an_excluded_table_are_never_taken_along_and_the_path_is_named(scratch, action, strategy):
    scratch.execute(CHAIN.format(action=action))
    scratch.execute("INSERT INTO book (publisher_id) VALUES (1), (1), (2); INSERT INTO loan (book_id) VALUES (1)")
    with pytest.raises(ExclusionError) as refusal:
        scratch.reset(exclude=["public.book", "public.loan"], strategy=strategy)
    message = str(refusal.value)
    assert "public.book(publisher_id) → public.publisher(id): 3 row(s)" in message
    assert "behind it: public.loan(book_id) → public.book(id)" in message
    assert "Reset public.book, public.loan too, or keep public.publisher as well." in message
    assert (scratch.count("publisher"), scratch.count("book"), scratch.count("loan")) == (2, 3, 1)


def test_naming_one_table_never_empties_another_by_cascade(scratch):
    scratch.execute(CHAIN.format(action="ON DELETE CASCADE"))
    scratch.execute("INSERT INTO book (publisher_id) VALUES (1)")
    with pytest.raises(ExclusionError):
        scratch.reset(include=["public.publisher"])
    assert scratch.count("book") == 1


def test_a_row_that_refers_to_nothing_hinders_nothing(scratch):
    scratch.execute(
        "CREATE TABLE a (id int, part int, PRIMARY KEY (id, part)); INSERT INTO a VALUES (1, 1);"
        "CREATE TABLE b (a_id int, a_part int, FOREIGN KEY (a_id, a_part) REFERENCES a ON DELETE CASCADE);"
        "INSERT INTO b VALUES (NULL, NULL), (7, NULL)"
    )
    scratch.reset(exclude=["public.b"])
    assert (scratch.count("a"), scratch.count("b")) == (0, 2)


def test_a_cascade_row_written_between_plan_and_lock_is_found_under_the_lock(scratch):
    """The count before the plan is not enough: another session may write before the lock is taken."""
    scratch.execute(CHAIN.format(action="ON DELETE CASCADE"))
    scratch.execute("INSERT INTO book (publisher_id) VALUES (1); DELETE FROM book")
    resetter = scratch.resetter(exclude=["public.book"])
    check = resetter._check_references

    def check_then_write(*arguments):
        check(*arguments)
        scratch.execute("INSERT INTO book (publisher_id) VALUES (1)")

    resetter._check_references = check_then_write
    with pytest.raises(ExclusionError, match=r"public\.book"):
        resetter.reset()
    assert (scratch.count("publisher"), scratch.count("book")) == (2, 1)


CYCLE_OPTIONS = [
    "",
    "ON DELETE RESTRICT",
    "ON DELETE CASCADE",
    "ON DELETE SET NULL",
    "DEFERRABLE",
    "DEFERRABLE INITIALLY DEFERRED",
]


@pytest.mark.parametrize("option", CYCLE_OPTIONS)
@pytest.mark.parametrize("strategy", ["auto", "delete", "truncate"])
def test_a_cycle_of_two_tables_is_emptied_without_privilege(scratch, option, strategy):
    scratch.execute(
        f"CREATE TABLE a (id int PRIMARY KEY, b_id int);"
        f"CREATE TABLE b (id int PRIMARY KEY, a_id int REFERENCES a {option});"
        f"ALTER TABLE a ADD FOREIGN KEY (b_id) REFERENCES b {option};"
        f"INSERT INTO a VALUES (1), (2); INSERT INTO b VALUES (1, 1), (2, 2); UPDATE a SET b_id = id"
    )
    report = scratch.reset(strategy=strategy)
    assert (scratch.count("a"), scratch.count("b")) == (0, 0)
    if strategy != "truncate":
        assert {str(table.name): table.rows for table in report.tables} == {"public.a": 2, "public.b": 2}


@pytest.mark.parametrize("option", CYCLE_OPTIONS)
def test_a_self_reference_is_emptied(scratch, option):
    scratch.execute(
        f"CREATE TABLE node (id int PRIMARY KEY, parent_id int REFERENCES node {option});"
        "INSERT INTO node SELECT g, CASE WHEN g > 1 THEN g - 1 END FROM generate_series(1, 50) g; UPDATE node SET parent_id = 50 WHERE id = 1"
    )
    assert scratch.reset().rows == 50
    assert scratch.count("node") == 0


@pytest.mark.parametrize("option", ["", "ON DELETE RESTRICT"])
def test_a_ring_of_a_hundred_tables_is_emptied_by_one_statement(scratch, option):
    statements = [f"CREATE TABLE r{number} (id int PRIMARY KEY, next_id int)" for number in range(100)]
    statements += [
        f"ALTER TABLE r{number} ADD FOREIGN KEY (next_id) REFERENCES r{(number + 1) % 100} {option}"
        for number in range(100)
    ]
    statements += [f"INSERT INTO r{number} VALUES (1)" for number in range(100)]
    statements += [f"UPDATE r{number} SET next_id = 1" for number in range(100)]
    scratch.execute(";".join(statements))
    resetter = scratch.resetter()
    (step,) = [step for step in resetter.plan().plan.steps if step.action is Action.DELETE]
    assert len(step.names) == 100
    assert resetter.reset().rows == 100


def test_schemas_and_keys_across_them_and_tables_off_the_search_path(scratch):
    scratch.execute(
        "CREATE SCHEMA tenant_1; CREATE SCHEMA tenant_2;"
        "CREATE TABLE public.shared (id serial PRIMARY KEY);"
        "CREATE TABLE tenant_1.item (id serial PRIMARY KEY, s int REFERENCES public.shared);"
        "CREATE TABLE tenant_2.item (id serial PRIMARY KEY, s int REFERENCES public.shared, o int REFERENCES tenant_1.item);"
        "INSERT INTO public.shared DEFAULT VALUES; INSERT INTO tenant_1.item (s) VALUES (1);"
        "INSERT INTO tenant_2.item (s, o) VALUES (1, 1)"
    )
    report = scratch.reset()
    assert [str(table.name) for table in report.tables] == ["tenant_2.item", "tenant_1.item", "public.shared"]
    assert scratch.sequence_state("tenant_2.item_id_seq") == (1, False)


def test_the_same_constraint_name_on_several_tables_invents_no_edge(scratch):
    scratch.execute(
        "CREATE SCHEMA other;"
        "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY);"
        "CREATE TABLE x (r int CONSTRAINT same REFERENCES a); CREATE TABLE y (r int CONSTRAINT same REFERENCES b);"
        "CREATE TABLE other.x (r int CONSTRAINT same REFERENCES b)"
    )
    assert sorted(f"{key.table}>{key.referenced}" for key in scratch.schema().foreign_keys) == [
        "other.x>public.b",
        "public.x>public.a",
        "public.y>public.b",
    ]


def test_a_role_that_owns_nothing_sees_every_foreign_key(scratch):
    """information_schema shows it none."""
    scratch.execute("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (a_id int REFERENCES a)")
    with scratch.superuser() as superuser:
        superuser.execute("DROP ROLE IF EXISTS scratch_stranger; CREATE ROLE scratch_stranger LOGIN")
        try:
            scratch.connection.close()
            scratch.register("stranger", USER="scratch_stranger", PASSWORD="")
            resetter = scratch.resetter()
            resetter.using = "stranger"
            schema = resetter.backend.read_schema(resetter.connection)
            resetter.connection.close()
            assert [str(key) for key in schema.foreign_keys] == ["public.b(a_id) → public.a(id)"]
            assert not schema.tables[0].owned
        finally:
            superuser.execute("DROP ROLE scratch_stranger")
