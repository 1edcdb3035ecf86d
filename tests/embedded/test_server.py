"""What the server is like: closed to others, and otherwise as PostgreSQL comes."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from testproject.embedded import (
    BASE_VARIABLE,
    Server,
    ServerStartError,
    UnsafeFolderError,
    folders_of,
    superuser_dsn,
)
from testproject.embedded.binaries import Installation
from tests.embedded.processes import eventually, run_python

pytestmark = pytest.mark.postgresql


@pytest.fixture
def running(server: Server) -> Server:
    server.ensure_running()
    return server


def test_settings_are_postgresqls_own_but_for_durability_and_network(running: Server) -> None:
    expected = {
        "fsync": "off",
        "listen_addresses": "",
        "max_locks_per_transaction": "64",
        "synchronous_commit": "on",
        "server_encoding": "UTF8",
        "wal_level": "replica",
    }
    with psycopg.connect(running.dsn()) as connection:
        for name, value in expected.items():
            assert connection.execute("SELECT current_setting(%s)", [name]).fetchone() == (value,)


def test_locale_is_c_utf8_and_builtin_where_there_is_that(running: Server) -> None:
    with psycopg.connect(running.dsn()) as connection:
        query = "SELECT to_jsonb(d) FROM pg_database d WHERE datname = current_database()"
        row = connection.execute(query).fetchone()
        assert row is not None
        if running.installation.major >= 17:
            assert (row[0]["datlocprovider"], row[0]["datlocale"]) == ("b", "C.UTF-8")
        elif sys.platform == "linux":
            assert row[0]["datcollate"] == "C.UTF-8"
        assert connection.execute("SELECT upper('é'), 'a' < 'B'").fetchone() == ("É", False)


def test_the_role_is_ordinary_and_owns_its_database(running: Server) -> None:
    with psycopg.connect(running.dsn(), autocommit=True) as connection:
        assert connection.execute(
            "SELECT rolsuper, rolcreaterole, rolcreatedb, pg_get_userbyid(datdba) = current_user"
            " FROM pg_roles, pg_database WHERE rolname = current_user AND datname = current_database()"
        ).fetchone() == (False, False, True, True)
        connection.execute("CREATE TABLE public.mine (id int)")
        connection.execute("CREATE DATABASE another")


def test_superuser_is_to_be_had_for_what_the_role_may_not_do(server: Server) -> None:
    with psycopg.connect(superuser_dsn(), autocommit=True) as connection:
        connection.execute("CREATE ROLE somebody SUPERUSER")


def test_the_socket_is_closed_to_other_users(running: Server) -> None:
    assert stat.S_IMODE(running.folders.socket.stat().st_mode) == 0o700
    if os.geteuid() == 0:
        path = running.folders.socket_file
        script = f"import socket; socket.socket(socket.AF_UNIX).connect({str(path)!r})"
        other = subprocess.run(
            ["python3", "-c", script],
            user=12345,
            group=12345,
            extra_groups=[],
            cwd="/",
            env={"PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert "PermissionError" in other.stderr


def test_a_server_that_runs_is_not_started_again(running: Server) -> None:
    assert running.ensure_running() is False


def test_the_shared_socket_fits_an_address_for_every_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(BASE_VARIABLE, raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 2**32 - 2)
    folders = folders_of(Installation(bin=Path("/somewhere/very" + "/long" * 100), major=18))
    assert len(str(folders.socket_file)) <= 103


def test_a_socket_that_does_not_fit_an_address_is_refused(base: Path) -> None:
    done = run_python("-m", "testproject.embedded", **{BASE_VARIABLE: str(base / ("x" * 80))})
    assert done.returncode == 1
    assert "The path of the server's socket is too long" in done.stderr
    assert f"Set {BASE_VARIABLE} to a folder with a shorter path" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_others_may_write_to_is_refused(server: Server) -> None:
    server.folders.home.mkdir(parents=True)
    server.folders.home.chmod(0o777)
    with pytest.raises(UnsafeFolderError, match="others may write to it"):
        server.ensure_running()


def test_a_server_that_does_not_start_says_why(base: Path) -> None:
    broken = base / "bin"
    broken.mkdir()
    for program, script in (
        ("postgres", "echo 'postgres (PostgreSQL) 16.1'"),
        ("initdb", '[ "$1" = --version ] || { echo no luck; exit 7; }'),
    ):
        (broken / program).write_text(f"#!/bin/sh\n{script}\n")
        (broken / program).chmod(0o755)
    installation = Installation(bin=broken, major=16)
    broken_server = Server(installation=installation, folders=folders_of(installation, base))
    try:
        with pytest.raises(ServerStartError, match=r"initdb failed \(exit status 7\):\nno luck"):
            broken_server.ensure_running()
    finally:
        shutil.rmtree(broken_server.folders.in_memory, ignore_errors=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's server runs under another account")
def test_binaries_in_a_folder_closed_to_the_servers_account_are_copied_and_no_mode_is_changed(
    server: Server, tmp_path: Path
) -> None:
    prefix = server.installation.bin.parent
    if not prefix.name.startswith("pginstall"):
        pytest.skip("a system's binaries need not work from another place")
    closed = tmp_path / "closed"
    closed.mkdir()
    libraries = prefix.parent.parent / f"{prefix.parent.name}.libs"
    if libraries.is_dir():
        shutil.copytree(libraries, closed / libraries.name)
    shutil.copytree(prefix, closed / prefix.parent.name / prefix.name)
    closed.chmod(0o700)
    installation = Installation(bin=closed / prefix.parent.name / prefix.name / "bin", major=server.installation.major)
    other = Server(installation=installation, folders=folders_of(installation, server.folders.base))
    other.ensure_running()
    try:
        with psycopg.connect(other.dsn()) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700
        assert len(list(server.folders.base.glob("binaries-*"))) == 1
        postmaster = int(other.folders.ready.read_text().split()[0])
        if sys.platform == "linux":
            assert Path(f"/proc/{postmaster}").stat().st_uid != 0
    finally:
        in_memory = other.folders.in_memory
        shutil.rmtree(other.folders.home)
        assert eventually(lambda: not in_memory.exists())
