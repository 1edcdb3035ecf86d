"""A server of its own for each test, in a folder of its own: the shared one is never disturbed."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from testproject.databases import URL_VARIABLE
from testproject.embedded import BASE_VARIABLE, NoPostgresError, Server, shared_server
from testproject.embedded.binaries import CHOICE_VARIABLE, find_installation
from tests.embedded.processes import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def binaries_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    if os.environ.get(URL_VARIABLE):
        try:
            find_installation(os.environ.get(CHOICE_VARIABLE))
        except NoPostgresError:
            pytest.skip("DATABASE_URL is used, and there are no binaries of PostgreSQL")
        monkeypatch.delenv(URL_VARIABLE)


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for servers, which the processes that a test starts use too. It is short, for the sockets."""
    folder = Path(tempfile.mkdtemp(prefix="tpg-", dir="/tmp"))
    folder.chmod(0o711)
    monkeypatch.setenv(BASE_VARIABLE, str(folder))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def server(base: Path) -> Iterator[Server]:
    """A handle on the server in that folder; it has not been started, and this process is no user of it."""
    handle = shared_server()
    assert handle.folders.base == base
    yield handle
    place = handle.folders.in_memory if handle.folders.token.exists() else handle.folders.home
    # A supervisor whose folder is gone ends its server. It takes files of its own away meanwhile.
    while base.exists():
        shutil.rmtree(base, ignore_errors=True)
    gone = eventually(lambda: not (place / "data" / "postmaster.pid").exists())
    shutil.rmtree(place, ignore_errors=True)
    assert gone, "the server outlived its folder"
