"""Runs from templates on a server that is restarted, whose disk is full, or that has no database ``postgres``: one of their own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connections

from testproject.embedded import ROLE, Server
from tests.creation.projects import TemplateProject, make_template_project
from tests.embedded.conftest import base, binaries_are_there, server  # noqa: F401 - fixtures
from tests.embedded.processes import eventually, is_alive
from tests.scratch import connect_as_superuser

pytestmark = pytest.mark.postgresql

MB = 1024 * 1024


@pytest.fixture
def project(
    server: Server,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    django_db_blocker: Any,
) -> Iterator[TemplateProject]:
    """A project on that server. The alias default of this process leads there, too."""
    server.ensure_running()
    default = connections["default"]
    default.close()
    for name, value in {"HOST": server.host, "PORT": "5432", "USER": ROLE, "PASSWORD": ""}.items():
        monkeypatch.setitem(default.settings_dict, name, value)
    with django_db_blocker.unblock():
        yield make_template_project(tmp_path)
        default.close()


# A server that is restarted ---------------------------------------------------------------------------------------


def end(server: Server, number: int) -> None:  # noqa: F811
    """End the server, by its supervisor or by a crash."""
    postmaster, supervisor = map(int, server.folders.ready.read_text().split())
    os.kill(postmaster if number == signal.SIGKILL else supervisor, number)
    assert eventually(lambda: not is_alive(postmaster) and not is_alive(supervisor))


FAST = "CREATE UNLOGGED TABLE shop_fast (id int); INSERT INTO shop_fast VALUES (1), (2)"
FINDS_FAST = """
from finds import *

@pytest.mark.django_db
def test_finds():
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM shop_fast")
        record(**contents(), fast=cursor.fetchone()[0])
    Book.objects.create(title="of a test")
"""


@pytest.mark.parametrize("options", [(), ("--reuse-db",)], ids=["dropped", "kept"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["ended", "crashed"])
def test_a_template_outlives_the_server_but_for_unlogged_tables(
    project: TemplateProject,
    server: Server,  # noqa: F811
    number: int,
    options: tuple[str, ...],
) -> None:
    """A crash empties them in templates and in kept clones, so both are made anew after any start."""
    project.tests(*options).must_build("there is none yet").must_find()
    end(server, number)
    assert server.ensure_running()
    project.tests(*options).must_use().must_find()
    project.add_migration("0003_fast", f"migrations.RunSQL({FAST!r})")
    project.write("test_finds.py", FINDS_FAST)
    project.tests(*options).must_build("shop/migrations/0003_fast.py").must_find(fast=2)
    project.tests(*options).must_use().must_find(fast=2)
    end(server, number)
    assert server.ensure_running()
    project.tests(*options).must_build("the server was restarted").must_find(fast=2)
    project.tests(*options).must_use().must_find(fast=2)
    assert project.left_over() == []


# A server without the database "postgres" -------------------------------------------------------------------------


@pytest.fixture
def without_postgres(project: TemplateProject) -> Iterator[None]:
    """Have no database of that name; the helpers of tests need it afterwards."""
    with connect_as_superuser("template1") as connection:
        connection.execute("ALTER DATABASE postgres RENAME TO mislaid")
    yield
    with connect_as_superuser("template1") as connection:
        connection.execute("ALTER DATABASE mislaid RENAME TO postgres")


def test_without_the_database_postgres_templates_are_listed_in_the_configured_one(
    project: TemplateProject, without_postgres: None
) -> None:
    """Django warns, and connects to the first database of the settings; so do templates.

    The test database is kept, because Django's DROP would connect to that one itself.
    """
    ini = (project.directory / "pytest.ini").read_text()
    project.write("pytest.ini", f"{ini}filterwarnings = ignore:Normally Django:RuntimeWarning\n")
    stock = project.tests("--no-testdb-templates", fails=True)
    ours = project.tests(fails=True)
    for ran in (stock, ours):
        assert f'database "{project.name}" does not exist' in ran.text
    with connect_as_superuser("template1") as connection:
        connection.execute(f"CREATE DATABASE {project.name} OWNER {project.role}")
    project.tests("--reuse-db").must_build("there is none yet").must_find()
    project.tests("--reuse-db").must_use().must_find()
    project.tests("--reuse-db", "-n", "2").must_find()
    with connect_as_superuser(project.name) as connection:
        query = "SELECT count(*) FROM pg_database WHERE datname ^@ 'testdb_'"
        assert connection.execute(query).fetchone() == (1,)


# A server whose disk is full --------------------------------------------------------------------------------------


FULL = "No space left on device"


class Disk:
    """A small disk that each new database is on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.filler = folder / "filler"

    def fill_up(self, *, but_for: int) -> None:
        """Leave so many bytes to what is made now. CREATE DATABASE takes a block for each file at once: 2 MB."""
        with connect_as_superuser("postgres") as connection:
            connection.execute("CHECKPOINT")  # what there is has its place
        with self.filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(self.folder).free - but_for)


@pytest.fixture
def disk(project: TemplateProject, server: Server) -> Iterator[Disk]:  # noqa: F811
    folder = server.folders.base / "disk"
    folder.mkdir()
    owner = server.folders.data().stat()
    options = f"size=64m,mode=700,uid={owner.st_uid},gid={owner.st_gid}"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", folder], check=False).returncode:
        pytest.skip("only root may mount a disk")
    try:
        with connect_as_superuser("postgres") as connection:
            connection.execute(f"CREATE TABLESPACE small LOCATION '{folder}'")
            connection.execute("ALTER DATABASE template1 SET TABLESPACE small")
        yield Disk(folder)
    finally:
        end(server, signal.SIGTERM)
        subprocess.run(["umount", folder], check=True)


def test_a_disk_that_is_full_in_the_middle_of_a_clone_fails_as_in_stock(project: TemplateProject, disk: Disk) -> None:
    project.tests().must_find()
    (template,) = project.templates()
    disk.fill_up(but_for=MB)
    stock = project.tests("--no-testdb-templates", fails=True)
    ours = project.tests(fails=True)
    for ran in (stock, ours):
        assert "Got an error creating the test database: could not extend file" in ran.text
    assert any(line.startswith('no template for "default"') and FULL in line for line in ours.lines), ours.text
    assert project.databases() == [template]
    disk.filler.unlink()
    project.tests().must_use().must_find()
    assert project.databases() == [template]


def test_a_disk_that_is_full_in_the_middle_of_a_clone_leaves_the_kept_one_and_it_is_clean(
    project: TemplateProject, disk: Disk
) -> None:
    project.tests("--reuse-db").must_find()
    expected = project.databases()
    project.execute(project.test_name, "INSERT INTO shop_book (title) VALUES ('of a killed run')")
    disk.fill_up(but_for=MB)
    ran = project.tests("--reuse-db").must_find()
    assert any(line.startswith('no template for "default"') and FULL in line for line in ran.lines), ran.text
    disk.filler.unlink()
    project.tests("--reuse-db").must_use().must_find()
    assert project.databases() == expected


def test_a_disk_that_is_full_in_the_middle_of_the_migrations_leaves_nothing(
    project: TemplateProject, disk: Disk
) -> None:
    files = [each for each in disk.folder.rglob("*") if each.is_file()]  # those of template1
    disk.fill_up(but_for=len(files) * 8192 + MB // 4)
    ran = project.tests(fails=True)
    assert FULL in ran.text
    assert project.databases() == []
    disk.filler.unlink()
    project.tests().must_build("there is none yet").must_find()
    assert project.databases() == project.templates()
