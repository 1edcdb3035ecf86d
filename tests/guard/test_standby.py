"""Servers of one's own: a hot standby, which needs no primary to be one, and a publisher of logical replication."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.db import connections

from testdb_app.exceptions import UnsafeDatabaseError
from testdb_app.resetter import Resetter
from testproject.embedded import NoPostgresError
from testproject.embedded.binaries import CHOICE_VARIABLE, Installation, find_installation
from testproject.embedded.supervisor import Account, account_for_server, reachable

pytestmark = pytest.mark.postgresql

SUPERUSER = "postgres"
DATABASE = "shop"
ROWS = f"""CREATE TABLE public.item AS SELECT 1 AS id
CREATE SCHEMA testdb
CREATE TABLE testdb.test ()
DO $$BEGIN EXECUTE (SELECT format('COMMENT ON TABLE testdb.test IS %L', json_build_object('database', datname, 'oid', oid::bigint, \
'system_identifier', (SELECT system_identifier::text FROM pg_control_system()))) FROM pg_database WHERE datname = '{DATABASE}'); END$$
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """The data of a server of its own, in a folder that is removed with everything in it."""

    folder: Path
    installation: Installation
    account: Account

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def run(self, program: str, *arguments: str, feed: str = "") -> None:
        self.account.run(self.installation.program(program), *arguments, feed=feed)

    def make(self, *, is_standby: bool) -> None:
        options = ["-U", SUPERUSER, "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync", "--no-instructions"]
        self.run("initdb", "-D", str(self.data), *options)
        # Single-user mode takes a statement a line.
        for database, statements in (("postgres", f"CREATE DATABASE {DATABASE}\n"), (DATABASE, ROWS)):
            self.run("postgres", "--single", "-D", str(self.data), "-c", "exit_on_error=on", database, feed=statements)
        if not is_standby:
            return
        (self.data / "standby.signal").write_bytes(b"")
        if self.account.user is not None and self.account.group is not None:
            os.chown(self.data / "standby.signal", self.account.user, self.account.group)

    def start(self) -> subprocess.Popen[bytes]:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.folder),
            "fsync": "off",
            "wal_level": "logical",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        log = self.folder.parent / "log"
        with log.open("wb") as file:
            server = subprocess.Popen(
                [self.installation.program("postgres"), "-D", str(self.data), *options],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                cwd="/",
                **self.account.identity(),
            )
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and server.poll() is None:
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(host=str(self.folder), port=5432, user=SUPERUSER, dbname=DATABASE).close()
                return server
            time.sleep(0.05)
        server.kill()
        server.wait()
        raise AssertionError(log.read_text())


@contextlib.contextmanager
def running(*, is_standby: bool) -> Iterator[Path]:
    """Start a server; yield the folder of its socket."""
    try:
        installation = find_installation(os.environ.get(CHOICE_VARIABLE))
    except NoPostgresError:
        pytest.skip("there are no binaries of PostgreSQL, only the server of DATABASE_URL")
    base = Path(tempfile.mkdtemp(prefix="tps-", dir="/tmp"))  # short, for the socket
    base.chmod(0o711)
    account = account_for_server()
    account.own(base / "s")
    cluster = Cluster(folder=base / "s", installation=reachable(installation, account, base), account=account)
    try:
        cluster.make(is_standby=is_standby)
        server = cluster.start()
        try:
            yield cluster.folder
        finally:
            server.terminate()
            server.wait(20)
    finally:
        shutil.rmtree(base)


@contextlib.contextmanager
def registered(alias: str, folder: Path) -> Iterator[str]:
    configuration = {"NAME": DATABASE, "HOST": str(folder), "PORT": "5432", "USER": SUPERUSER, "PASSWORD": ""}
    engine = {"ENGINE": "django.db.backends.postgresql", "OPTIONS": {}}
    connections.settings[alias] = {**connections.settings["default"], **engine, **configuration}
    yield alias
    connections[alias].close()
    del connections[alias]
    del connections.settings[alias]


@pytest.fixture(scope="module")
def standby() -> Iterator[Path]:
    """A server on a standby's data."""
    with running(is_standby=True) as folder:
        yield folder


@pytest.fixture
def alias(standby: Path, django_db_blocker: Any) -> Iterator[str]:
    with django_db_blocker.unblock(), registered("standby", standby) as alias:
        yield alias


def test_a_standby_is_refused_though_it_is_marked_and_named(alias: str) -> None:
    resetter = Resetter(alias, allow_database=DATABASE)
    assert resetter.identify().is_standby
    assert {mark.value for mark in resetter.identify().marks} == {"test"}
    with pytest.raises(UnsafeDatabaseError, match=r"its server is a standby\. Connect to") as caught:
        resetter.reset()
    assert caught.value.rule == "standby"


def test_a_plan_can_be_read_on_a_standby(alias: str) -> None:
    assert Resetter(alias).plan().total_rows == 1


def test_a_database_whose_changes_a_subscriber_gets_is_reset_with_a_warning(django_db_blocker: Any) -> None:
    with running(is_standby=False) as folder, django_db_blocker.unblock(), registered("publisher", folder) as alias:
        assert Resetter(alias, to="empty").reset().warning is None
        with connections[alias].cursor() as cursor:
            cursor.execute("CREATE PUBLICATION p FOR ALL TABLES")
            cursor.execute("CREATE DATABASE elsewhere")
            cursor.execute("SELECT pg_create_logical_replication_slot('sub_1', 'pgoutput')")
        warning = Resetter(alias, to="empty").reset().warning
        assert "The logical replication slots of this database (sub_1) pass its changes on" in (warning or "")
        connections[alias].close()
        connections[alias].settings_dict["NAME"] = "elsewhere"
        assert Resetter(alias, allow_database="elsewhere").reset().warning is None
        connections[alias].settings_dict["NAME"] = DATABASE
