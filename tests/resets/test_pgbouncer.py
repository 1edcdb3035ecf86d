"""Resets through a real pgbouncer in transaction mode, where every transaction may run on another server connection."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from testdb_app.exceptions import LockTimeoutError
from tests.scratch import default_parameters

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")

pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed (apt-get install pgbouncer)")


def _account() -> dict:
    """As root, the account that owns the server's socket: pgbouncer refuses to run as root too."""
    if os.geteuid() != 0:
        return {}
    owner = pwd.getpwuid(Path(default_parameters()["host"]).stat().st_uid)
    return {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}


@pytest.fixture
def bounced(scratch):
    """The scratch database through pgbouncer, as the alias ``bounced``."""
    parameters = default_parameters()
    if not str(parameters.get("host", "")).startswith("/") or parameters.get("password"):
        pytest.skip("the server of this run is not on a unix socket without password")
    account = _account()
    folder = f"/tmp/testproject-bouncer-{os.getpid()}"
    Path(folder).mkdir(0o700)
    try:
        if account:
            os.chown(folder, account["user"], account["group"])
        Path(folder, "pgbouncer.ini").write_text(
            f"[databases]\n{scratch.name} = host={parameters['host']} port={parameters.get('port', 5432)}"
            f" user={parameters['user']}\n"
            f"[pgbouncer]\nlisten_addr =\nunix_socket_dir = {folder}\nlisten_port = 6432\n"
            "auth_type = any\npool_mode = transaction\ndefault_pool_size = 2\n"
        )
        process = subprocess.Popen(
            [PGBOUNCER, f"{folder}/pgbouncer.ini"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **account
        )
        try:
            _wait_for(f"{folder}/.s.PGSQL.6432", process)
            scratch.register("bounced", HOST=folder, PORT="6432", DISABLE_SERVER_SIDE_CURSORS=True)
            yield scratch
        finally:
            scratch.connection.close()
            process.terminate()
            process.wait(10)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(path: str, process: subprocess.Popen) -> None:
    for _ in range(100):
        assert process.poll() is None, "pgbouncer did not start"
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(path)
                return
            except OSError:
                time.sleep(0.05)
    raise AssertionError("pgbouncer does not listen")


def test_resets_through_pgbouncer_in_transaction_mode(bounced):
    bounced.execute(
        "CREATE TABLE a (id serial PRIMARY KEY, b_id int);"
        "CREATE TABLE b (id serial PRIMARY KEY, a_id int REFERENCES a);"
        "ALTER TABLE a ADD FOREIGN KEY (b_id) REFERENCES b"
    )
    resetter = bounced.resetter()
    resetter.using = "bounced"
    for _ in range(5):
        bounced.execute(
            "INSERT INTO a DEFAULT VALUES; INSERT INTO b (a_id) SELECT max(id) FROM a; UPDATE a SET b_id = 1"
        )
        assert resetter.reset().rows == 2
        assert bounced.sequence_state("a_id_seq") == (1, False)


def test_a_failed_reset_leaves_no_setting_for_the_next_client_of_pgbouncer(bounced):
    bounced.execute("CREATE TABLE t (id int); INSERT INTO t VALUES (1)")
    resetter = bounced.resetter(lock_timeout=0.2)
    resetter.using = "bounced"
    with bounced.connect() as writer:
        writer.execute("BEGIN; UPDATE t SET id = 2")
        with pytest.raises(LockTimeoutError):
            resetter.reset()
    with resetter.connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('lock_timeout'), current_setting('row_security')")
        assert cursor.fetchone() == ("0", "on")
    assert resetter.reset().rows == 1
