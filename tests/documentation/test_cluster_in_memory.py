"""The cluster in memory is made and started by the commands of the page, under an account that may."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import psycopg
import pytest

from testproject.embedded import shared_server
from testproject.embedded.supervisor import account_for_server, reachable
from tests.documentation.pages import DOCS, blocks

MEMORY = Path("/dev/shm")

pytestmark = [
    pytest.mark.postgresql,
    pytest.mark.skipif(not MEMORY.is_dir(), reason="there is no such folder on this system"),
]


def test_the_commands_of_the_page_make_a_cluster_that_answers() -> None:
    (commands,) = [block.text for block in blocks(DOCS / "how-to/fast-databases.md", "sh") if "initdb" in block.text]
    account = account_for_server()
    installation = reachable(shared_server().installation, account, shared_server().folders.base)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="tpd-", dir=MEMORY))
    cluster = folder / "own" / "test-cluster"
    try:
        folder.chmod(0o711)
        account.own(cluster.parent)
        commands = commands.replace("/dev/shm/test-cluster", str(cluster)).replace("port=5433", f"port={port}")
        environment = {**os.environ, "PATH": f"{installation.bin}:{os.environ['PATH']}"}

        def run(script: str) -> None:
            subprocess.run(
                ["bash", "-e", "-c", script],
                check=True,
                cwd="/",
                env=environment,
                stdout=subprocess.DEVNULL,
                timeout=60,
                **account.identity(),
            )

        run(commands)
        try:
            user = pwd.getpwuid(account.user if account.user is not None else os.getuid()).pw_name
            with psycopg.connect(host="localhost", port=port, user=user, dbname="postgres") as connection:
                assert connection.execute("SHOW fsync").fetchone() == ("off",)
        finally:
            run(f'pg_ctl --pgdata "{cluster}" --mode immediate --wait stop')
    finally:
        shutil.rmtree(folder)
