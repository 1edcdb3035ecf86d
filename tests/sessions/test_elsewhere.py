"""Sessions in async code, in threads that they do not belong to, in scripts and in the shell."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.core.exceptions import SynchronousOnlyOperation
from django.db import connections

from testdb_app.exceptions import TestSessionError
from tests.guard.projects import Project, database_settings, make_project
from tests.sessions.conftest import insert, numbers


def test_async_code_that_sync_code_calls_is_in_the_session(database, factory):
    async def read() -> list[int]:
        return await sync_to_async(lambda: numbers(connections[database.alias]))()

    with factory() as session:
        insert(session, 1)
        assert async_to_sync(read)() == [1]


def test_a_session_of_async_code_is_opened_in_the_thread_of_its_queries(database, factory):
    async def work() -> list[int]:
        session = factory("async")
        with pytest.raises(SynchronousOnlyOperation, match="You cannot open a test session in an event loop"):
            session.open()
        await sync_to_async(session.open)()
        try:
            await sync_to_async(insert)(session, 1)
            found = await sync_to_async(lambda: numbers(connections[database.alias]))()
        finally:
            await sync_to_async(session.close)()
        await sync_to_async(connections.close_all)()
        return found

    assert asyncio.run(work()) == [1]
    assert database.count("a") == 0


def test_a_session_is_used_and_closed_by_the_thread_that_has_opened_it(database, factory):
    errors: list[BaseException] = []

    def use() -> None:
        for act in (session.run_on_commit, session.close, lambda: session.connection):
            try:
                act()
            except TestSessionError as error:
                errors.append(error)

    with factory("mine") as session:
        insert(session, 1)
        thread = threading.Thread(target=use, name="stranger")
        thread.start()
        thread.join()
        assert len(errors) == 3
        assert (
            'the session "mine" belongs to the thread MainThread, which has opened it, and is used in stranger'
            in str(errors[0])
        )
        assert numbers(session.connection) == [1]


SCRIPT = """
import os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
import django
django.setup()
from django.db import connection
from shop.models import Shelf
from testdb_app.exceptions import UnsafeSessionError
from testdb_app.sessions import TestSessionFactory
try:
    TestSessionFactory()("untold").open()
except UnsafeSessionError as error:
    print("refused:", error.rule)
factory = TestSessionFactory(allow_database=connection.settings_dict["NAME"])
with factory("script") as session:
    session.setup(Shelf.objects.create, name="tried")
    print("inside:", Shelf.objects.count())
print("after:", Shelf.objects.count())
session = factory("left open").open()
Shelf.objects.create(name="left")
"""


@pytest.fixture
def project(database: Any, tmp_path: Path) -> Project:
    (tmp_path / "project").mkdir()
    made = make_project(tmp_path / "project", {"default": database_settings(database.alias)})
    made.manage("migrate", "--run-syncdb", "-v0").must_pass()
    return made


@pytest.mark.parametrize("where", ["a script", "manage.py shell"])
def test_a_database_is_tried_out_and_left_as_it_was(database, project, where):
    if where == "a script":
        project.write("script.py", SCRIPT)
        done = project.run("script.py").must_pass()
    else:
        done = project.manage("shell", feed=SCRIPT, PYTHONWARNINGS="").must_pass()
    printed = [line for line in done.stdout.splitlines() if ": " in line]
    assert printed[-3:] == ["refused: unknown", "inside: 1", "after: 0"], done.stdout + done.stderr
    assert "Error" not in done.stderr
    assert database.count("shop_shelf") == 0
