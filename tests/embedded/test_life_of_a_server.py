"""When a server starts, who shares it, and when it ends: with real processes that are really killed."""

from __future__ import annotations

import contextlib
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from testproject.embedded import is_held, opened_lock, try_exclusive
from testproject.embedded.supervisor import LINGER_SECONDS
from tests.embedded.processes import ROOT, eventually, is_alive, run_python, users
from tests.terminals import skip_without_terminals

if TYPE_CHECKING:
    from testproject.embedded import Server

pytestmark = pytest.mark.postgresql


def process_ids(server: Server) -> tuple[int, int]:
    """Return the numbers of the server and of its supervisor."""
    postmaster, supervisor = server.folders.ready.read_text().split()
    return int(postmaster), int(supervisor)


def is_gone(server: Server) -> bool:
    return not server.folders.is_listening() and not is_held(server.folders.lock("supervisor"))


@pytest.mark.parametrize("made_before", [False, True])
def test_eight_processes_that_start_at_once_share_one_server(server: Server, made_before: bool) -> None:
    if made_before:
        with users(1):
            pass
        assert eventually(lambda: is_gone(server))
    with users(8) as eight:
        assert sorted(user.started for user in eight) == [False] * 7 + [True]
        assert len({user.since for user in eight}) == 1


@pytest.mark.parametrize("ending", ["exit", "SIGTERM", "SIGKILL"])
def test_server_is_gone_soon_after_its_last_user_however_that_ended(server: Server, ending: str) -> None:
    with users(2) as (first, last):
        postmaster, supervisor = process_ids(server)
        first.leave()
        time.sleep(LINGER_SECONDS + 1)
        assert is_alive(postmaster), "the server went although it had a user"
        if ending == "exit":
            last.leave()
        else:
            last.kill(signal.Signals[ending])
        assert eventually(lambda: not is_alive(postmaster) and not is_alive(supervisor))
        assert is_gone(server)
        assert not server.folders.ready.exists()


def test_a_forked_child_is_a_user_after_its_parent_is_gone(server: Server) -> None:
    script = (
        "import os, sys\n"
        "from testproject.embedded import shared_server\n"
        "shared_server().ensure_running()\n"
        "if os.fork() == 0:\n"
        "    sys.stdin.read()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdin=subprocess.PIPE)
    parent.wait()
    time.sleep(LINGER_SECONDS + 1)
    assert server.folders.is_listening()
    assert parent.stdin is not None
    parent.stdin.close()
    assert eventually(lambda: is_gone(server))


def test_a_killed_server_is_replaced_by_the_next_start_and_has_its_data(server: Server) -> None:
    with users(1) as (user,):
        with contextlib.closing(psycopg.connect(server.dsn(), autocommit=True)) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 1 AS one")
            postmaster, _ = process_ids(server)
            os.kill(postmaster, signal.SIGKILL)
        with users(1) as (next_user,):
            assert next_user.started
            assert next_user.since != user.since
            with psycopg.connect(server.dsn()) as connection:
                assert connection.execute("SELECT one FROM kept").fetchone() == (1,)


def test_a_server_whose_supervisor_is_killed_is_ended_and_replaced(server: Server) -> None:
    with users(1) as (user,):
        postmaster, supervisor = process_ids(server)
        os.kill(supervisor, signal.SIGKILL)
        with users(1) as (next_user,):
            assert next_user.started
            assert next_user.since != user.since
            assert not is_alive(postmaster)
            assert is_alive(process_ids(server)[0])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
def test_a_server_whose_supervisor_is_killed_ends_without_a_next_start(server: Server) -> None:
    with users(1):
        postmaster, supervisor = process_ids(server)
        os.kill(supervisor, signal.SIGKILL)
        assert eventually(lambda: not is_alive(postmaster))


def test_a_supervisor_that_is_told_to_stop_ends_its_server_and_the_next_start_waits_for_that(
    server: Server,
) -> None:
    with users(1) as (user,):
        postmaster, supervisor = process_ids(server)
        os.kill(supervisor, signal.SIGTERM)
        with users(1) as (next_user,):
            # It may have found the first server still up; then its own connection is what the stop cut short.
            assert next_user.since != user.since or not next_user.started
        assert eventually(lambda: not is_alive(postmaster))


def test_ctrl_c_in_the_terminal_does_not_kill_the_server(server: Server) -> None:
    script = (
        "from testproject.embedded import shared_server\n"
        "shared_server().ensure_running()\n"
        "print('started', flush=True)\n"
        "import time; time.sleep(60)\n"
    )
    skip_without_terminals()
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-c", script])
    try:
        assert b"started" in os.read(terminal, 1000)
        with users(1) as (other,):
            assert not other.started
            postmaster, _ = process_ids(server)
            os.write(terminal, b"\x03")
            _, status = os.waitpid(pid, 0)
            assert os.WIFSIGNALED(status)
            assert os.WTERMSIG(status) == signal.SIGINT
            time.sleep(1)
            assert is_alive(postmaster)
            with psycopg.connect(server.dsn()) as connection:
                assert connection.execute("SELECT pg_postmaster_start_time()::text").fetchone() == (other.since,)
    finally:
        os.close(terminal)


def test_a_command_in_a_pipe_does_not_wait_for_the_end_of_the_server(server: Server) -> None:
    done = run_python("-m", "testproject.embedded")
    assert done.returncode == 0
    assert server.folders.is_listening(), "the pipe was open as long as the server ran"
    assert done.stdout == f"PostgreSQL {server.installation.major} from {server.installation.bin}\n"


def test_what_a_server_leaves_is_listed(server: Server) -> None:
    with users(1):
        kept = run_python("-m", "testproject.embedded", "--folders").stdout.split()
        assert kept[0] == str(server.folders.base)
        data = server.folders.data()
        assert any(data.is_relative_to(folder) for folder in kept)


def test_a_server_whose_folder_is_removed_ends_and_the_next_start_makes_another(server: Server) -> None:
    with users(1) as (user,):
        postmaster, supervisor = process_ids(server)
        data = server.folders.data()
        shutil.rmtree(server.folders.home)
        with users(1) as (next_user,):
            assert next_user.started
            assert next_user.since != user.since
            assert eventually(lambda: not is_alive(postmaster) and not is_alive(supervisor))
            assert eventually(lambda: not data.exists())
            assert is_alive(process_ids(server)[0])


def test_only_data_that_are_neither_in_use_nor_recent_are_removed(server: Server) -> None:
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("there is no memory to keep data in")
    made = [Path(f"/dev/shm/testproject-pg-{os.geteuid()}-test{kind}{os.getpid()}") for kind in range(3)]
    unused, recent, in_use = made
    weeks_ago = time.time() - 14 * 24 * 3600
    try:
        for folder in made:
            (folder / "data").mkdir(parents=True)
            (folder / "server.lock").touch()
        for folder in (unused, in_use):
            os.utime(folder / "server.lock", (weeks_ago, weeks_ago))
        with opened_lock(in_use / "server.lock") as lock:
            assert try_exclusive(lock)
            server.ensure_running()
        assert [folder.exists() for folder in made] == [False, True, True]
        assert recent.exists()
    finally:
        for folder in made:
            shutil.rmtree(folder, ignore_errors=True)


def test_two_folders_of_one_path_never_share_their_data(server: Server) -> None:
    with users(1):
        first = server.folders.data()
        moved = server.folders.home.with_name("moved")
        server.folders.home.rename(moved)
        try:
            server.ensure_running()
            assert server.folders.data() != first
        finally:
            shutil.rmtree(moved)


def test_data_that_the_server_cannot_use_are_made_anew(server: Server) -> None:
    with users(1):
        pass
    assert eventually(lambda: is_gone(server))
    (server.folders.data() / "global" / "pg_control").unlink()
    with users(1) as (user,):
        assert user.started
