"""What our classes do beyond Django's: they survive what a test leaves behind, and say what is wrong."""

from __future__ import annotations

import pytest
from django.test import LiveServerTestCase, TestCase, TransactionTestCase
from django.test.runner import DiscoverRunner

from testdb_app.exceptions import ConfigurationError
from testdb_app.runner import ResetRunnerMixin
from testdb_app.testcases import ResetMixin
from tests.guard.projects import Project

TESTS = """
from django.contrib.staticfiles.testing import StaticLiveServerTestCase
from django.db import connection, transaction
from shop.models import Item, Shelf
from testdb_app.testcases import ResetMixin, ResetTransactionTestCase
import urllib.request

def rows():
    return sorted(Shelf.objects.values_list("name", flat=True))

class After(ResetTransactionTestCase):
    def tearDown(self):
        self.check = None

    def test_1_autocommit_is_left_off(self):
        self.assertEqual(rows(), ["from a migration"])
        transaction.set_autocommit(False)
        Shelf.objects.create(name="uncommitted")

    def test_2(self):
        self.assertEqual(rows(), ["from a migration"])

    def test_3_a_transaction_is_left_open_behind_django(self):
        with connection.cursor() as cursor:
            cursor.execute("BEGIN")
        Shelf.objects.create(name="uncommitted")

    def test_4(self):
        self.assertEqual(rows(), ["from a migration"])

    def test_5_the_search_path_is_changed(self):
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("SET search_path TO pg_catalog")

    def test_6(self):
        self.assertEqual(rows(), ["from a migration"])
        Shelf.objects.update(name="changed")

    def test_7_keys_are_as_in_the_first_test(self):
        self.assertEqual(list(Shelf.objects.values_list("pk", "name")), [(1, "from a migration")])
        self.assertEqual(Shelf.objects.create(name="two").pk, 2)

    def test_8_keys_are_as_in_the_first_test(self):
        self.assertEqual(Shelf.objects.create(name="two").pk, 2)

class Sequences(ResetTransactionTestCase):
    reset_sequences = True

    def test_1_a_sequence_that_a_migration_has_used(self):
        self.assertEqual(Item.objects.create(shelf=Shelf.objects.get()).pk, 1)
        self.assertEqual(Shelf.objects.create(name="two").pk, 2)

    def test_2_again(self):
        self.assertEqual(Item.objects.create(shelf=Shelf.objects.get()).pk, 1)

class Static(ResetMixin, StaticLiveServerTestCase):
    def test_1(self):
        self.assertEqual(urllib.request.urlopen(self.live_server_url, timeout=20).read(), b"1")

    def test_2(self):
        self.assertEqual(urllib.request.urlopen(self.live_server_url, timeout=20).read(), b"1")
"""


def test_what_a_test_leaves_behind_does_not_reach_the_next(project: Project) -> None:
    project.write("shop/tests.py", TESTS)
    project.manage("test", "--noinput").must_pass()
    project.manage("test", "--noinput", "--reverse").must_pass()


def test_a_state_that_does_not_exist_is_refused_by_name(project: Project) -> None:
    project.write(
        "shop/tests.py",
        "from testdb_app.testcases import ResetTransactionTestCase\n"
        "class Wrong(ResetTransactionTestCase):\n    reset_to = 'clean'\n    def test(self): pass\n",
    )
    done = project.manage("test", "--noinput")
    assert done.returncode == 1
    assert "shop.tests.Wrong.reset_to must be one of baseline, empty, not 'clean'." in done.stderr


def test_a_class_that_rolls_back_is_refused_where_it_is_defined() -> None:
    with pytest.raises(ConfigurationError, match=r"test_classes\.\S*Both has ResetMixin and django.test.TestCase"):
        type("Both", (ResetMixin, TestCase), {"__module__": __name__})
    with pytest.raises(ConfigurationError, match="TestCase rolls each test back"):
        type("Behind", (TestCase, ResetMixin), {"__module__": __name__})


def test_mixins_that_would_do_nothing_are_refused_where_the_class_is_defined() -> None:
    for base in (TransactionTestCase, LiveServerTestCase):
        with pytest.raises(
            ConfigurationError, match=r"Late has to have ResetMixin before django.test.TransactionTestCase"
        ):
            type("Late", (base, ResetMixin), {"__module__": __name__})
    own = type("Own", (DiscoverRunner,), {})
    with pytest.raises(
        ConfigurationError, match=r"Late has to have ResetRunnerMixin before django.test.runner.DiscoverRunner"
    ):
        type("Late", (own, ResetRunnerMixin), {"__module__": __name__})
    assert issubclass(type("First", (ResetRunnerMixin, own), {}), own)
    assert issubclass(type("Alone", (ResetMixin,), {}), ResetMixin)


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["one process", "xdist"])
def test_they_work_under_pytest_django(project: Project, options: tuple[str, ...]) -> None:
    project.write("pytest.ini", "[pytest]\nDJANGO_SETTINGS_MODULE = settings\npython_files = tests.py\n")
    project.write("shop/tests.py", TESTS)
    done = project.pytest("-q", *options)
    assert "12 passed" in done.stdout, done.stdout + done.stderr


SESSIONS = """
import json, os
from django.conf import settings
from django.db import connection
from psycopg import IsolationLevel
from testdb_app.testcases import ResetTransactionTestCase

STATE = '''
    SELECT current_setting('TimeZone'), current_setting('role'), session_user::text, current_setting('search_path'),
           current_setting('default_transaction_isolation'), current_setting('statement_timeout'),
           pg_my_temp_schema() <> 0 AND EXISTS (SELECT FROM pg_class WHERE relnamespace = pg_my_temp_schema()),
           (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),
           (SELECT count(*) FROM pg_listening_channels()), (SELECT count(*) FROM pg_cursors),
           (SELECT count(*) FROM pg_prepared_statements WHERE from_sql)
'''

class Sessions(ResetTransactionTestCase):
    def look(self):
        with connection.cursor() as cursor:
            cursor.execute(STATE)
            state = cursor.fetchone()
        return {"state": state, "pid": connection.connection.info.backend_pid, "level": connection.connection.isolation_level}

def make(name, change):
    def test(self):
        before = self.look()
        change()
        with (settings.HERE / f"found-{os.getpid()}.jsonl").open("a") as file:
            file.write(json.dumps({"test": name, **before}) + "\\n")
    setattr(Sessions, f"test_{name}", test)

def run(sql):
    def change():
        with connection.cursor() as cursor:
            cursor.execute(sql)
    return change

def level():
    connection.connection.isolation_level = IsolationLevel.SERIALIZABLE

CHANGES = {
    "a_nothing": lambda: None,
    "b_settings": run("SET TIME ZONE 'Asia/Tokyo'; SET search_path TO pg_catalog; SET statement_timeout = '9s'"),
    "c_role": run(f"SET ROLE {connection.settings_dict['USER']}"),
    "d_isolation": run("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE"),
    "e_temporary": run("CREATE TEMPORARY TABLE kept (id int); INSERT INTO kept VALUES (1)"),
    "f_locks": run("SELECT pg_advisory_lock(42), pg_advisory_lock(42), pg_advisory_lock_shared(7)"),
    "g_listens": run("LISTEN something"),
    "h_cursor": run("DECLARE held CURSOR WITH HOLD FOR SELECT 1"),
    "i_prepares": run("PREPARE by_hand AS SELECT 1"),
    "j_driver": level,
    "k_closes": connection.close,
    "k_is_ended": lambda: connection.connection.close(),
    "l_aborts": run("BEGIN"),
    "m_nothing": lambda: None,
    "n_nothing": lambda: None,
}
for name, change in CHANGES.items():
    make(name, change)
"""
CLOSED = {"e_temporary", "i_prepares", "j_driver", "k_closes", "k_is_ended"}


@pytest.mark.postgresql
def test_a_session_stays_open_and_is_as_good_as_new_or_is_closed(project: Project) -> None:
    project.write("shop/tests.py", SESSIONS)
    found = project.manage("test", "--noinput").must_pass().found
    assert len(found) == 15
    assert {str(each["state"]) for each in found[1:]} == {str(found[0]["state"])}
    assert {each["level"] for each in found} == {None}
    pids = [each["pid"] for each in found]
    kept = {before["test"]: first == second for before, first, second in zip(found, pids, pids[1:], strict=False)}
    # What a new session has is read once, from one that is opened for it.
    assert {name for name, is_kept in kept.items() if not is_kept} == {"a_nothing", *CLOSED}


@pytest.mark.postgresql
def test_sessions_are_closed_where_a_handler_of_connection_created_may_have_done_anything(project: Project) -> None:
    project.write("shop/tests.py", SESSIONS)
    project.write(
        "shop/apps.py",
        "from django.apps import AppConfig\nfrom django.db.backends.signals import connection_created\n"
        "def configure(connection, **_):\n    connection.cursor().execute(\"SET app.tenant = '1'\")\n"
        "class Shop(AppConfig):\n    name = 'shop'\n    def ready(self): connection_created.connect(configure)\n",
    )
    found = project.manage("test", "--noinput").must_pass().found
    assert len({each["pid"] for each in found}) == len(found)


OPENED_OTHERWISE = """
from django.db import connection
from django.test import override_settings
from testdb_app.testcases import ResetTransactionTestCase

class A(ResetTransactionTestCase):
    expected = ["UTC", "", True]

    def look(self):
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_setting('TimeZone'), current_setting('application_name')")
            found = [*cursor.fetchone(), connection.settings_dict["OPTIONS"].get("application_name") is None]
        self.assertEqual(found, self.expected)
        self.assertEqual(connection.timezone_name, self.expected[0])

    test_1 = test_2 = test_3 = look

@override_settings(USE_TZ=False, TIME_ZONE="Asia/Tokyo")
class B(A):
    expected = ["Asia/Tokyo", "", True]

class C(A):
    pass

class D(A):
    expected = ["UTC", "of D", False]

    @classmethod
    def setUpClass(cls):
        connection.settings_dict["OPTIONS"]["application_name"] = "of D"
        super().setUpClass()

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        del connection.settings_dict["OPTIONS"]["application_name"]

class E(A):
    pass
"""


@pytest.mark.postgresql
def test_a_session_is_opened_anew_when_settings_say_otherwise_how_to_open_it(project: Project) -> None:
    project.write("shop/tests.py", OPENED_OTHERWISE)
    project.manage("test", "--noinput").must_pass()
    stock = OPENED_OTHERWISE.replace(
        "(ResetTransactionTestCase)", "(__import__('django.test').test.TransactionTestCase)"
    )
    project.write("shop/tests.py", stock)
    project.manage("test", "--noinput").must_pass()


ONE_FAILS = """
from django.db import connections
from shop.models import Shelf
from testdb_app.testcases import ResetTransactionTestCase

class Two(ResetTransactionTestCase):
    databases = {"default", "other"}

    def test_1_a_table_with_rows_in_the_baseline_is_changed(self):
        for alias in ("default", "other"):
            Shelf.objects.using(alias).create(name="written")
        with connections["default"].cursor() as cursor:
            cursor.execute("ALTER TABLE shop_shelf ADD COLUMN colour integer")

    def test_2_the_other_database_was_reset_all_the_same(self):
        self.assertEqual([shelf.name for shelf in Shelf.objects.using("other").all()], ["from a migration"])
        with connections["default"].cursor() as cursor:
            cursor.execute("ALTER TABLE shop_shelf DROP COLUMN colour")
"""


def test_a_database_that_cannot_be_reset_does_not_keep_the_others_from_it(project: Project) -> None:
    project.write("shop/tests.py", ONE_FAILS)
    done = project.manage("test", "--noinput")
    assert "BaselineError" in done.stderr
    assert "shop_shelf has changed (+ colour" in done.stderr
    assert "FAILED (errors=1)" in done.stderr, done.stderr


LEAVES_TABLES = """
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder
from django.test import TransactionTestCase
from shop.models import Item, Shelf
from testdb_app.testcases import ResetTransactionTestCase

def run(sql):
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall() if cursor.description else None

class Leaving(ResetTransactionTestCase):
    def look(self):
        self.assertEqual(list(Shelf.objects.values_list("pk", "name")), [(1, "from a migration")])
        self.assertEqual(Shelf.objects.create(name="written").pk, 2)
        self.assertEqual(Item.objects.count(), 0)

    def test_1_a_table_is_made(self):
        self.look()
        run("CREATE TABLE came (id integer, shelf_id bigint REFERENCES shop_shelf (id))")
        run("INSERT INTO came VALUES (1, 2)")

    def test_2_it_is_there_without_rows(self):
        self.look()
        self.assertEqual(run("SELECT count(*) FROM came"), [(0,)])
        run("INSERT INTO came VALUES (1, 2)")

    def test_3_a_table_that_had_no_rows_is_changed_and_a_migration_recorded(self):
        self.look()
        run("ALTER TABLE shop_item ADD COLUMN colour integer")
        MigrationRecorder(connection).record_applied("shop", "9999_by_a_test")

    def test_4_tables_go(self):
        self.look()
        run("DROP TABLE came")
        run("DROP TABLE shop_item")
        run("CREATE TABLE shop_item (id bigint PRIMARY KEY, shelf_id bigint, label varchar(20))")

    def test_5(self):
        self.look()
"""


def test_tables_that_a_test_leaves_or_takes_do_not_fail_the_next(project: Project) -> None:
    project.write("shop/tests.py", LEAVES_TABLES)
    project.manage("test", "--noinput").must_pass()
    project.write(
        "shop/tests.py",
        LEAVES_TABLES.replace("class Leaving(ResetTransactionTestCase)", "class Leaving(TransactionTestCase)"),
    )
    project.manage(
        "test", "--noinput", "--testrunner", "testdb_app.runner.ResetDiscoverRunner", "--reset-transaction-tests"
    ).must_pass()


CLOSED_BEHIND = """
from django.db import connection
from django.test import SimpleTestCase
from shop.models import Shelf
from testdb_app.testcases import ResetTransactionTestCase

class A(ResetTransactionTestCase):
    def test(self):
        Shelf.objects.create(name="written")

class B(SimpleTestCase):
    def test(self):
        self.assertTrue(connection.connection)
        connection.connection.close()

class C(ResetTransactionTestCase):
    def test(self):
        self.assertEqual(Shelf.objects.count(), 1)
"""


@pytest.mark.postgresql
def test_a_session_that_is_closed_behind_django_between_tests_is_not_used(project: Project) -> None:
    project.write("shop/tests.py", CLOSED_BEHIND)
    project.manage("test", "--noinput").must_pass()
