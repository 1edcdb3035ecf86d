"""What a test leaves behind, by the fixture or class that it has: the table in the explanation is what is measured here."""

from __future__ import annotations

import json
import re

import pytest

from tests.documentation.conftest import Examples
from tests.documentation.pages import DOCS

LINE = "testdb_reset_transactional"

CONFTEST = """
import json, os
from pathlib import Path
import pytest

@pytest.fixture(scope="session")
def django_db_setup(django_db_setup, django_db_blocker):
    from testdb_app.baseline import capture_baseline
    with django_db_blocker.unblock():
        capture_baseline()
        look.types = dict(select("SELECT model, id FROM django_content_type"))
        yield
        note()  # of the session's scope, which has ended just now

def select(statement):
    import psycopg
    from django.db import connection
    parameters = connection.get_connection_params()
    parameters = {key: parameters[key] for key in ("host", "port", "user", "password", "dbname") if parameters.get(key)}
    with psycopg.connect(**parameters) as session:
        return session.execute(statement).fetchall()

def count(table):
    return select(f"SELECT count(*) FROM {table}")[0][0]

def look(pid):
    from django.db import connection
    types = dict(select("SELECT model, id FROM django_content_type"))
    live = connection.connection.info.backend_pid if connection.connection is not None else None
    return {
        "rows it wrote": "stay" if count("testdb_demo_author") else "gone",
        "rows of migrations": "stay" if count("testdb_demo_genre") == 11 else "gone",
        "sequences": "moved" if select("SELECT is_called FROM testdb_demo_author_id_seq")[0][0] else "back",
        "content types": "same" if types == look.types else "new ids" if types else "gone",
        "session": "same" if live == pid else "new",
    }

def note():
    from testdb_app.resetter import Resetter
    import bodies
    if bodies.subject is not None:
        with Path("found.jsonl").open("a") as file:
            file.write(json.dumps([bodies.subject, look(bodies.pid)]) + "\\n")
        Resetter().reset()
    bodies.subject = None

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    result = yield
    from pytest_django.plugin import blocking_manager_key
    import bodies
    if bodies.subject != "db_session":
        with item.config.stash[blocking_manager_key].unblock():
            note()
    return result
"""

BODIES = """
from django.db import connection
from testdb_app.demo.models import Author

subject = pid = None

def write(name):
    global subject, pid
    Author.objects.create(name="written")
    subject, pid = name, connection.connection.info.backend_pid
"""

TESTS = """
import urllib.request
import pytest
from django.test import LiveServerTestCase, TestCase, TransactionTestCase
from bodies import write
from testdb_app.testcases import ResetLiveServerTestCase, ResetTransactionTestCase

def test_db(db):
    write("db")

def test_own_session(test_session):
    write("test_session")

class Rolled(TestCase):
    def test(self):
        write("TestCase")

# The first session of a run is closed, as nothing is known of it yet: the last of two counts.
@pytest.mark.parametrize("number", [1, 2])
def test_transactional(transactional_db, number):
    write("transactional_db")

class Flushed(TransactionTestCase):
    def test(self):
        write("TransactionTestCase")

def test_sequences(django_db_reset_sequences):
    write("django_db_reset_sequences")

def test_serialized(transactional_db, django_db_serialized_rollback):
    write("django_db_serialized_rollback")

def test_server(live_server):
    urllib.request.urlopen(f"{live_server.url}/works").read()
    write("live_server")

class Served(LiveServerTestCase):
    def test(self):
        write("LiveServerTestCase")

@pytest.fixture(scope="class")
def author(django_db_setup, django_db_blocker):
    with django_db_blocker.unblock():
        write("django_db_blocker.unblock()")

class TestBlocker:
    def test(self, author):
        pass

@pytest.mark.parametrize("number", [1, 2])
def test_reset(reset_db, number):
    write("reset_db")

class Reset(ResetTransactionTestCase):
    def test(self):
        write("ResetTransactionTestCase")

class ServedAndReset(ResetLiveServerTestCase):
    def test(self):
        write("ResetLiveServerTestCase")

def test_that_comes_last():
    pass  # the databases are there until it ends
"""

SCOPE = """
import pytest
from bodies import write

@pytest.fixture(scope="{width}")
def author({name}):
    write("{name}")

class Test:
    def test(self, author):
        pass
"""
WIDE = {"db_class": "class", "db_module": "module", "db_package": "package", "db_session": "session"}
WIDE |= {"reset_db_class": "class", "reset_db_module": "module"}


def table_of_the_page() -> dict[str, dict[str, str]]:
    """Return the rows of the table by what is in code in its first column."""
    text = (DOCS / "explanation/isolation.md").read_text("utf-8")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    head = next(index for index, line in enumerate(lines) if line.startswith("| a test with"))
    names, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines[head:])
    found = {}
    for cells in rows:
        for name in re.findall(r"`([^`]+)`", cells[0]):
            found[name] = dict(zip(names[1:], cells[1:], strict=True))
    return found


@pytest.mark.postgresql
def test_every_way_to_isolate_a_test_leaves_what_the_page_says(examples: Examples) -> None:
    for path in examples.directory.glob("test_*.py"):
        path.unlink()
    (examples.directory / "conftest.py").write_text(CONFTEST)
    (examples.directory / "bodies.py").write_text(BODIES)
    (examples.directory / "test_leftovers.py").write_text(TESTS)
    for name, width in WIDE.items():
        folder = examples.directory / f"wide_{name}"  # after the others, so that its session is not the first
        folder.mkdir()
        (folder / "__init__.py").touch()
        (folder / f"test_{name}.py").write_text(SCOPE.format(name=name, width=width))
    page = table_of_the_page()
    assert len(page) == 20
    # The scope of the session would be around all others.
    found = read_state(examples, "-o", f"{LINE}=false", "--ignore=wide_db_session") | read_state(
        examples, "wide_db_session"
    )
    assert found == {name: left for name, left in page.items() if name != LINE}
    committed = {"transactional_db", "live_server", "TransactionTestCase", "LiveServerTestCase"}
    with_the_line = read_state(examples, f"--{LINE.replace('_', '-')}", "test_leftovers.py")
    assert {name: with_the_line[name] for name in committed} == dict.fromkeys(committed, page[LINE])


def read_state(examples: Examples, *options: str) -> dict[str, dict[str, str]]:
    """Run all the tests; return what each left."""
    examples.pytest(*options)
    lines = examples.directory / "found.jsonl"
    found = dict(map(json.loads, lines.read_text().splitlines()))
    lines.unlink()
    return found
