"""Whole runs from templates, by pytest and by ``manage.py test``: each behaves as in stock, and says what it did."""

from __future__ import annotations

import json
from itertools import product
from typing import Any

import pytest

from tests.creation.projects import ROWS, TemplateProject

pytestmark = pytest.mark.postgresql

SEVERAL = """
from finds import *

@pytest.mark.django_db(databases="__all__")
@pytest.mark.parametrize("number", range(8))
def test_finds(number):
    record(
        **contents(),
        others=sorted(Book.objects.using("other").values_list("title", flat=True)),
        mirrored=Book.objects.using("replica").count(),
    )
    Book.objects.create(title="of a test")
    Book.objects.using("other").create(title="of a test")
    connections["replica"].close()  # or Django could not drop the database
"""


def add_databases(project: TemplateProject) -> None:
    """Add a second database and a mirror of the first, and tests that use all three."""
    databases = project.read_databases()
    default = databases["default"]
    project.set_databases(
        {
            **databases,
            "other": {**default, "NAME": f"{project.name}_other", "TEST": {"DEPENDENCIES": []}},
            "replica": {**default, "TEST": {"MIRROR": "default"}},
        }
    )
    project.write("test_finds.py", SEVERAL)


def test_the_header_says_what_a_run_does(project: TemplateProject) -> None:
    first = project.tests().must_build("there is none yet").must_find()
    assert first.lines[0] == 'building the template of "default" (there is none yet)'
    assert first.lines[1].startswith("template ") and ' of "default" built in ' in first.lines[1]
    second = project.tests().must_use().must_find()
    header = second.text.partition("test_finds.py")[0]
    assert "testdb: test database from template " in header  # the clone was made while the tests were collected
    assert project.tests("--no-testdb-templates").must_find().lines == []
    assert project.tests("-q").must_find().lines == []
    assert project.databases() == project.templates()


def test_reasons_are_given_by_name(project: TemplateProject) -> None:
    project.tests()
    project.replace("shop/pricing.py", "RATE = 1", "RATE = 2")
    project.tests().must_build("(changed: shop/pricing.py)").must_find(books=["2 2 "])
    project.replace("shop/pricing.py", "RATE = 2", "RATE = 1")
    project.tests().must_use().must_find()
    project.tests(COLOURS="blue").must_build("(changed: setting SHOP_COLOURS)").must_find(
        colours=["blue", "of a fixture"]
    )
    assert len(project.templates()) == 3
    project.tests(COLOURS="pink").must_build("changed: setting SHOP_COLOURS")
    assert len(project.templates()) == 3  # the one that was used least recently has gone
    assert project.databases() == project.templates()


def test_several_databases_and_a_mirror(project: TemplateProject) -> None:
    add_databases(project)
    expected: dict[str, Any] = {"others": ROWS["books"], "mirrored": 1}
    assert project.tests().must_find(**expected).builds == 2
    again = project.tests().must_find(**expected)
    assert (again.builds, again.uses + again.count('test database "other" from template')) == (0, 2)
    assert project.databases() == project.templates()


@pytest.mark.parametrize("number", [1, 2, 3, 8])
def test_workers_of_xdist_that_start_at_once(project: TemplateProject, number: int) -> None:
    add_databases(project)
    expected: dict[str, Any] = {"others": ROWS["books"], "mirrored": 1}
    cold = project.tests("-n", str(number)).must_find(**expected)
    assert len(cold.found) == 8
    assert cold.builds in {0, 2}, cold.text  # what workers write to their terminal is not always shown
    assert len(project.templates()) == 2
    documents = project.documents()
    assert {each["alias"] for each in documents} == {"default", "other"}
    warm = project.tests("-n", str(number)).must_find(**expected)
    assert len(project.templates()) == 2
    assert [each["made"] for each in project.documents()] == [each["made"] for each in documents]
    assert warm.count("test database from template") == 1, warm.text  # in the header of the controller
    assert {each["database"] for each in warm.found} <= {f"{project.test_name}_gw{index}" for index in range(number)}
    assert project.databases() == project.templates()


DIRT = {
    "rows": "INSERT INTO shop_book (title) VALUES ('of a killed run'); SELECT setval('shop_book_id_seq', 100)",
    "rows deleted": "DELETE FROM shop_book; DELETE FROM shop_colour",
    "a table dropped": "DROP TABLE shop_book CASCADE",
    "a column added": "ALTER TABLE shop_book ADD COLUMN more text NOT NULL DEFAULT ''",
    "a table added": "CREATE TABLE more (id int)",
    "a view dropped": "DROP VIEW shop_view",
    "the baseline dropped": "DROP SCHEMA testdb CASCADE; INSERT INTO shop_book (title) VALUES ('of a killed run')",
}


@pytest.mark.parametrize("costly", [False, True], ids=["cloned", "reset"])
def test_a_kept_database_is_clean_whatever_was_left(project: TemplateProject, costly: bool) -> None:
    # A clone that is kept is reset where a new one is not cheap.
    project.write(
        "conftest.py",
        f"from testdb_app.creation import templates\ntemplates.is_clone_cheap = lambda *_: {not costly}\n",
    )
    project.write("test_finds.py", FINDS_ALL)
    first = project.tests("--reuse-db").must_find()
    for what, statements in DIRT.items():
        project.execute(project.test_name, statements)
        oid = project.oid(project.test_name)
        again = project.tests("--reuse-db").must_use().must_find()
        assert again.found == first.found, what
        is_same = project.oid(project.test_name) == oid
        assert is_same is (costly and what.startswith("rows")), what
        assert again.text.count(", kept and reset") == is_same, again.text
    assert project.databases() == sorted([*project.templates(), project.test_name])


FINDS_ALL = """
from finds import *

@pytest.mark.django_db
def test_finds():
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM shop_view")
        cursor.execute("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1")
        tables = [name for (name,) in cursor.fetchall()]
        cursor.execute("SELECT attname FROM pg_attribute WHERE attrelid = 'shop_book'::regclass ORDER BY 1")
        columns = [name for (name,) in cursor.fetchall()]
        cursor.execute("SELECT last_value, is_called FROM shop_book_id_seq")
        record(**contents(), tables=tables, columns=columns, sequence=list(cursor.fetchone()))
"""


def test_a_kept_database_follows_the_migrations(project: TemplateProject) -> None:
    project.tests("--reuse-db").must_find()
    project.replace("shop/pricing.py", "RATE = 1", "RATE = 2")
    project.tests("--reuse-db").must_build("shop/pricing.py").must_find(books=["2 2 "])
    project.replace("shop/pricing.py", "RATE = 2", "RATE = 1")
    project.tests("--reuse-db").must_use().must_find()
    before = project.documents()
    project.tests("--reuse-db", "--create-db").must_build("it was asked for").must_find()
    assert [each["made"] for each in project.documents()] != [each["made"] for each in before]
    project.tests("--reuse-db").must_use().must_find()
    assert project.databases() == sorted([*project.templates(), project.test_name])


def test_a_kept_database_that_somebody_looks_at_is_reset(project: TemplateProject) -> None:
    project.tests("--reuse-db").must_find()
    oid = project.oid(project.test_name)
    project.execute(project.test_name, DIRT["rows"])
    with project.connect(project.test_name):
        project.tests("--reuse-db").must_use().must_find()
    assert project.oid(project.test_name) == oid


def test_a_kept_database_of_stock_stays_and_is_clean(project: TemplateProject) -> None:
    """It was made without templates, so it is no clone: it is kept as without them."""
    project.tests("--reuse-db", "--no-testdb-templates").must_find()
    project.write(
        "test_more.py",
        "from finds import *\n@pytest.mark.django_db(transaction=True)\ndef test_more(reset_db):\n    pass\n",
    )
    project.tests("--reuse-db", "--no-testdb-templates")  # its baseline is captured
    oid = project.oid(project.test_name)
    project.execute(project.test_name, DIRT["rows"])
    ran = project.tests("--reuse-db").must_find()
    assert any("is kept, and was not made from a template" in line for line in ran.lines), ran.text
    again = project.tests("--reuse-db").must_find()
    assert any("is kept, and was not made from a template" in line for line in again.lines), again.text
    assert "from template" not in again.text, "not announced either"
    assert project.oid(project.test_name) == oid
    project.tests("--reuse-db", "--create-db").must_find()
    assert project.oid(project.test_name) != oid


def test_no_migrations_and_migrate_false(project: TemplateProject) -> None:
    project.write(
        "test_finds.py",
        "from finds import *\n@pytest.mark.django_db\ndef test_it():\n    record(books=Book.objects.count())\n",
    )
    for ways in ({"options": ("--no-migrations",)}, {"MIGRATE": "false"}):
        options: Any = ways.get("options", ())
        environment = {"DATABASE": json.dumps({"TEST": {"MIGRATE": False}})} if "MIGRATE" in ways else {}
        cold = project.tests(*options, **environment)
        warm = project.tests(*options, **environment)
        assert (cold.builds, warm.builds) == (1, 0), warm.text
        assert [each["books"] for each in (*cold.found, *warm.found)] == [0, 0]
    assert [each["books"] for each in project.tests().found] == [1]
    assert project.databases() == project.templates()


def test_migrations_that_write_to_another_alias_run_as_in_stock(project: TemplateProject) -> None:
    add_databases(project)
    project.add_migration(
        "0003_elsewhere",
        "migrations.RunPython(write)",
        head=(
            "\ndef write(apps, editor):\n    if editor.connection.alias == 'other':\n"
            "        apps.get_model('shop', 'Book').objects.using('default').create(title='of the other')\n"
        ),
    )
    databases = project.read_databases()
    databases["other"]["TEST"]["DEPENDENCIES"] = ["default"]
    project.set_databases(databases)
    stock = project.tests("--no-testdb-templates")
    assert stock.found[0]["books"] == ["1 2 ", "of the other"]
    for _ in range(3):
        ours = project.tests()
        assert ours.found == stock.found
    assert any('no template for "other": its migrations write to "default" too' in line for line in ours.lines), (
        ours.text
    )
    cold = project.tests("-n", "2")
    assert sorted(each["books"] for each in cold.found) == sorted(each["books"] for each in stock.found)


def test_collect_only_makes_nothing(project: TemplateProject) -> None:
    project.tests("--collect-only")
    assert project.databases() == []
    project.tests()
    before = project.databases()
    project.tests("--collect-only")
    assert project.databases() == before


def test_tests_without_a_database_leave_no_clone(project: TemplateProject) -> None:
    project.tests()
    project.write("test_plain.py", "def test_it():\n    pass\n")
    ran = project.tests("test_plain.py")
    assert ran.count("test database from template") == 1  # made ahead, as the last run used it
    assert project.databases() == project.templates()


def test_tests_without_a_database_need_no_server(project: TemplateProject) -> None:
    project.tests()
    project.write("test_plain.py", "def test_it():\n    pass\n")
    nowhere = json.dumps({"HOST": "/there/is/none"})
    for options in ((), ("-n", "2")):
        assert "1 passed" in project.tests("test_plain.py", *options, DATABASE=nowhere).text


def test_a_run_without_templates_imports_nothing_of_them(project: TemplateProject) -> None:
    project.write(
        "test_imports.py",
        "import sys\nimport pytest\n@pytest.mark.django_db\ndef test_it():\n"
        "    assert not [name for name in sys.modules if name.startswith('testdb_app.creation')]\n",
    )
    off = json.dumps({"TESTDB": {}})
    project.tests("test_imports.py", SETTINGS=off)
    project.tests("test_imports.py", "--no-testdb-templates")
    project.write(
        "tests.py",
        "import sys\nfrom django.test import TestCase\nclass Test(TestCase):\n    def test_it(self):\n"
        "        assert not [name for name in sys.modules if name.startswith('testdb_app.creation')]\n",
    )
    project.manage_tests("tests", SETTINGS=off)


DJANGO_TESTS = """
from django.test import TestCase, TransactionTestCase
from finds import *

class Finds(TestCase):
    def test_finds(self):
        record(**contents())

class Commits(TransactionTestCase):
    serialized_rollback = True
    def test_finds(self):
        with connection.cursor() as cursor:
            cursor.execute("SHOW work_mem")
            record(**contents(), work_mem=cursor.fetchone()[0])
        Book.objects.create(title="committed")

class CommitsAgain(Commits):
    pass
"""


@pytest.mark.parametrize(
    ("options", "start"),
    [
        ((), ""),
        (("--reset-transaction-tests",), ""),
        (("--keepdb",), ""),
        *product([("--parallel", "2"), ("--keepdb", "--parallel", "2")], ["fork", "spawn"]),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_manage_py_test(project: TemplateProject, options: tuple[str, ...], start: str) -> None:
    if start:
        project.add_settings(f"\nimport multiprocessing\nmultiprocessing.set_start_method({start!r}, force=True)\n")
    project.write("tests.py", DJANGO_TESTS)
    project.add_migration(
        "0003_settings",
        "migrations.RunSQL(\"DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET work_mem TO %L', current_database(), '5MB'); END $$\")",
    )
    for round_ in range(3):
        ran = project.manage_tests("tests", "--noinput", *options).must_find()
        assert ran.builds == (round_ == 0), ran.text
        assert len(ran.found) == 3
        # Django's own clones for --parallel lose it.
        assert all(each.get("work_mem", "5MB") == "5MB" for each in ran.found), ran.found
    if "--keepdb" not in options:
        assert project.databases() == project.templates()
    assert project.left_over() == []


SEEDING_RUNNER = """
from django.db import connection
from django.test.runner import DiscoverRunner
from testdb_app.runner import ResetRunnerMixin

class Seeding(DiscoverRunner):
    def setup_databases(self, **options):
        from shop.models import Book
        wanted, self.parallel = self.parallel, 1
        made = super().setup_databases(**options)
        Book.objects.create(title="of the runner")
        for index in range(wanted if wanted > 1 else 0):
            connection.creation.clone_test_db(suffix=str(index + 1), verbosity=0, keepdb=self.keepdb)
        self.parallel = wanted
        return made

class Runner(ResetRunnerMixin, Seeding):
    pass
"""


@pytest.mark.parametrize(
    "options", [(), ("--parallel", "2"), ("--keepdb",), ("--keepdb", "--parallel", "2")], ids=" ".join
)
def test_rows_that_a_runner_writes_before_the_first_test_are_found_by_each(
    project: TemplateProject, options: tuple[str, ...]
) -> None:
    """They belong to the baseline, and to the clones for workers, as without templates."""
    project.write("runners.py", SEEDING_RUNNER)
    project.write(
        "tests.py", DJANGO_TESTS.replace("    serialized_rollback = True\n", "").replace("SHOW work_mem", "SELECT 1")
    )
    runner = json.dumps({"TEST_RUNNER": "runners.Runner"})
    for _ in range(3):
        ran = project.manage_tests("tests", "--noinput", "--reset-transaction-tests", *options, SETTINGS=runner)
        assert [each["books"] for each in ran.found] == [["1 2 ", "of the runner"]] * 3, ran.text


def test_the_question_before_an_existing_database_stays(project: TemplateProject) -> None:
    project.write("tests.py", DJANGO_TESTS)
    project.manage_tests("tests", "--noinput")
    project.as_superuser("CREATE DATABASE {} OWNER {}", project.test_name, project.role)
    project.execute(project.test_name, "CREATE TABLE precious (id int)")
    oid = project.oid(project.test_name)
    refused = project.manage_tests("tests", feed="no\n", fails=True)
    assert "Type 'yes' if you would like to try deleting the test database" in refused.text
    assert "Tests cancelled" in refused.text
    assert project.oid(project.test_name) == oid
    with project.connect(project.test_name) as connection:
        assert connection.execute("SELECT count(*) FROM precious").fetchone() == (0,)
    project.manage_tests("tests", feed="yes\n").must_find()
    assert project.databases() == project.templates()


def test_what_it_did_not_make_survives(project: TemplateProject) -> None:
    """Names like ours without our mark, marks without our name, and databases of another role."""
    project.tests("--reuse-db")
    (template,) = project.templates()
    with project.connect("postgres") as connection:
        mark = connection.execute(
            "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s", [template]
        ).fetchone()
        assert mark is not None
    foreign = [
        "testdb_tpl_0123456789abcdef_default",
        "testdb_tpl_01234567_1_1_building",
        "testdb_next_1_1",
        "testdb_old_1_1",
    ]
    names = [f"{name}{project.name[-4:]}" if not name.endswith("_building") else name for name in foreign]
    for name in names:
        project.as_superuser("CREATE DATABASE {} OWNER {}", name, project.role)
    stranger = f"testdb_old_{project.name[-4:]}_of_another"
    project.as_superuser("CREATE DATABASE {}", stranger)
    project.as_superuser("COMMENT ON DATABASE {} IS 'testdb clone '", stranger)
    try:
        project.replace("shop/pricing.py", "RATE = 1", "RATE = 3")
        project.tests().must_build("shop/pricing.py")
        project.tests()
        project.tests("--reuse-db", "--create-db")
        found = project.databases()
        assert set(names) <= set(found)
        with project.connect("postgres") as connection:
            assert connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [stranger]).fetchone()
    finally:
        project.as_superuser("DROP DATABASE {}", stranger)


RESETS = """
from finds import *
from testdb_app.testcases import ResetTransactionTestCase

@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("number", range(2))
def test_resets(reset_db, number):
    record(**contents())
    Book.objects.create(title="committed")

class TestReset(ResetTransactionTestCase):
    def test_one(self):
        record(**contents())
        Book.objects.all().delete()
    def test_two(self):
        record(**contents())
        Colour.objects.create(name="committed")

@pytest.fixture(scope="module")
def shelf(db_module):
    return Book.objects.create(title="of the module")

def test_module(shelf):
    record(books=sorted(Book.objects.exclude(pk=shelf.pk).values_list("title", flat=True)),
           colours=sorted(Colour.objects.values_list("name", flat=True)))
"""


def test_resets_in_clones(project: TemplateProject) -> None:
    project.write("test_finds.py", RESETS)
    for options in (
        (),
        ("--reuse-db",),
        ("--reuse-db", "--testdb-leaks=fail"),
        ("-n", "2", "--testdb-reset-transactional"),
    ):
        project.tests(*options).must_find()


def test_two_roles_have_one_project_on_one_server(project: TemplateProject) -> None:
    project.tests().must_find()
    second = f"{project.role}_2"
    project.as_superuser("CREATE ROLE {} LOGIN CREATEDB", second)
    try:
        other = json.dumps({"USER": second})
        project.tests(DATABASE=other).must_build("there is none yet").must_find()
        project.tests(DATABASE=other).must_use().must_find()
        project.tests().must_use().must_find()
    finally:
        with project.connect("postgres") as connection:
            query = "SELECT datname FROM pg_database WHERE pg_get_userbyid(datdba) = %s"
            names = [name for (name,) in connection.execute(query, [second]).fetchall()]
        for name in names:
            project.as_superuser("DROP DATABASE {}", name)
        project.as_superuser("DROP ROLE {}", second)
