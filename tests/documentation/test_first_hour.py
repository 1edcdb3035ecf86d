"""The tutorial, word by word: its commands and files in an empty folder, a new environment, the wheel, a PostgreSQL."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from django.db import connections
from psycopg import sql

from tests.documentation.pages import DOCS, ROOT, Block, blocks
from tests.guard.conftest import drop_test_databases
from tests.scratch import connect, default_parameters

PAGE = DOCS / "tutorial/first-hour.md"
NAME_IN_THE_PAGE = "library"
STRANGE = ("COV", "DATABASE_URL", "DJANGO", "PG", "PYTEST", "PYTHONPATH", "TESTPROJECT", "VIRTUAL_ENV")
"""What this run has in its environment, and a reader has not."""

pytestmark = [
    pytest.mark.postgresql,
    pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="the tests run against an installed wheel"),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shell:
    """Commands in one folder; what a block exports, and where it goes, holds for those after it."""

    state: Path
    environment: dict[str, str]

    def run(self, commands: str) -> tuple[int, str]:
        """Return the exit status and all that was printed."""
        script = (
            f'. "{self.state}"\n(exit 0)\nset -e\n{commands}\n{{ export -p; echo "cd \\"$PWD\\""; }} >"{self.state}"\n'
        )
        done = subprocess.run(
            ["bash", "-c", script],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
            check=False,
        )
        return done.returncode, done.stdout


@pytest.fixture
def database(django_db_blocker: Any) -> Iterator[str]:
    """An empty database, as the page's container has one."""
    with django_db_blocker.unblock():
        connections["default"].ensure_connection()
        name = f"library_{uuid.uuid4().hex[:10]}"
        with connect("postgres") as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield name
        with connect("postgres") as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
        drop_test_databases(name)
        connections["default"].close()


@pytest.fixture
def shell(tmp_path: Path, database: str) -> Shell:
    """A shell in an empty folder, for which the package index has the wheel of this working copy too."""
    wheels = tmp_path / "wheels"
    build = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(wheels), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    folder = tmp_path / "empty"
    folder.mkdir()
    state = tmp_path / "state"
    state.write_text(f'cd "{folder}"\n')
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(STRANGE)},
        **{f"PG{name.upper()}": str(value) for name, value in default_parameters().items()},
        "PGDATABASE": database,
        "PATH": f"{Path(sys.executable).resolve().parent}:{os.environ['PATH']}",
        "PIP_FIND_LINKS": str(wheels),
        "PIP_NO_COMPILE": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    return Shell(state=state, environment=environment)


def test_the_first_hour_goes_as_the_page_says(shell: Shell, tmp_path: Path, database: str) -> None:
    folder = tmp_path / "empty" / "first-hour"
    output, ran = "", 0
    for block in blocks(PAGE):
        kind = block.info.partition(" ")[2]
        if kind.startswith(("file:", "append:")):
            verb, _, name = kind.partition(":")
            path = folder / name
            assert path.parent.is_dir(), block
            path.write_text((path.read_text() if verb == "append" else "") + block.text)
        elif kind.startswith("edit:"):
            edit(folder / kind.removeprefix("edit:"), block)
        elif block.language == "text":
            check_output(block, output.replace(database, NAME_IN_THE_PAGE))
        elif kind in {"", "fails"}:
            status, output = shell.run(block.text)
            assert (status != 0) is (kind == "fails"), f"{block}\n{output}"
            ran += 1
        else:
            # A server is there, and its variables are set.
            assert kind in {"skip", "server"}
    assert ran >= 12


def edit(path: Path, block: Block) -> None:
    """Do what the block shows: its lines without those that come are in the file, once, and get the form without those that go."""
    lines = [line or " " for line in block.text.splitlines()]
    before, after = ("".join(f"{line[1:]}\n" for line in lines if line[0] in marks) for marks in (" -", " +"))
    assert before != after, block
    text = path.read_text()
    assert text.count(before) == 1, f"{block}: not once in\n{text}"
    path.write_text(text.replace(before, after))


def check_output(block: Block, output: str) -> None:
    """Every line of the block is one of the output's, in that order; "…" stands for anything."""
    position = 0
    lines = output.splitlines()
    for wanted in block.text.splitlines():
        pattern = re.escape(wanted).replace("…", ".*")
        found = next((number for number in range(position, len(lines)) if re.fullmatch(pattern, lines[number])), None)
        assert found is not None, f"{block}: {wanted!r} is not in the output:\n{output}"
        position = found + 1
