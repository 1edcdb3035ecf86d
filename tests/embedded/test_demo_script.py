"""``demo.sh``: its table has the times that Django printed, its last lines can be pasted, and it leaves what it says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import TYPE_CHECKING

import pytest

from testproject.databases import DATABASE_VARIABLE
from tests.embedded.processes import ROOT

if TYPE_CHECKING:
    from testproject.embedded import Server

pytestmark = pytest.mark.postgresql

Shell = Callable[..., CompletedProcess[str]]


@pytest.fixture
def sh(server: Server, tmp_path: Path) -> Shell:
    """Run a command in a shell, in an environment that has the packages of this one, as ``bootstrap.sh`` leaves it."""
    folder = tmp_path / "environment"
    venv.create(folder, with_pip=False)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "these.pth").write_text(f"{ROOT}\n{sysconfig.get_path('purelib')}\n")
    checksum = subprocess.run(
        ["cksum"], input=(ROOT / "pyproject.toml").read_bytes(), capture_output=True, check=True
    ).stdout.decode()
    (folder / ".testproject-demo").write_text(f"{checksum.strip()} {ROOT} ")
    environment = {**os.environ, "TESTPROJECT_VENV": str(folder), "TESTPROJECT_DJANGO": ""}
    environment.pop(DATABASE_VARIABLE, None)

    def run(command: str, stdin: str = "") -> CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-c", command], cwd=ROOT, env=environment, input=stdin, capture_output=True, text=True, check=False
        )

    return run


def test_the_table_is_of_djangos_times_and_the_last_lines_can_be_pasted(
    sh: Shell, server: Server, tmp_path: Path
) -> None:
    done = sh("sh testproject/demo.sh")
    assert (done.returncode, done.stderr) == (0, "")
    set_ups = re.findall(r"^Total database setup took ([\d.]+)s$", done.stdout, re.MULTILINE)
    tests = re.findall(r"^Ran 10 tests in ([\d.]+)s$", done.stdout, re.MULTILINE)
    assert (len(set_ups), len(tests)) == (3, 3)
    table = [line.split()[-3:] for line in done.stdout.splitlines() if line.startswith(("set-up of", "ten tests"))]
    assert table == [set_ups, tests]
    assert re.findall(r"^testdb: (building the template|test database from template)", done.stdout, re.MULTILINE) == [
        "building the template",
        "test database from template",
    ]

    lines = re.findall(r"^  (\S.* manage\.py .*)$", done.stdout, re.MULTILINE)
    assert [line.partition("manage.py ")[2].split()[0] for line in lines] == ["showdeps"] * 2 + ["loaddemo", "resetdb"]
    manage = lines[0].removesuffix("showdeps")
    count = "from testdb_app.demo.models import Genre, Loan; print(Genre.objects.count(), Loan.objects.count())"
    assert sh(f'{manage} shell -v 0 -c "{count}"').stdout == "11 0\n", "the rows of the migrations, and no others"
    for line in lines:
        pasted = sh(line.replace("graph.html", str(tmp_path / "graph.html")), stdin="testproject\n")
        assert pasted.returncode == 0, pasted.stderr
    assert (tmp_path / "graph.html").read_text("utf-8").startswith("<!DOCTYPE html>")
    assert sh(f'{manage} shell -v 0 -c "{count}"').stdout == "11 0\n"
    (template,) = json.loads(sh(f"{manage} testtemplates --format json").stdout)["templates"]
    assert template["fits"]
    assert f"  {server.folders.base}\n" in done.stdout
