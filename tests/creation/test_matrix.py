"""One project on one server in two environments at once, with another Django or another Python: each has a template of its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator

import django
import pytest

from testdb_app.creation.template import Template
from tests.creation.projects import ROWS, TemplateProject
from tests.embedded.processes import ROOT

pytestmark = pytest.mark.postgresql

VERSIONS = "import sys, django, psycopg, pytest_django; print(*sys.version_info[:2], *django.VERSION[:2])"
OWN = (*sys.version_info[:2], *django.VERSION[:2])


def find_others() -> Iterator[str]:
    """Yield the interpreters of this checkout's environments with other versions. The nightly run makes them."""
    for python in map(str, sorted(ROOT.glob(".venv*/bin/python"))):
        done = subprocess.run([python, "-c", VERSIONS], capture_output=True, text=True, check=False)
        if done.returncode == 0 and tuple(map(int, done.stdout.split())) != OWN:
            yield python


def start(project: TemplateProject, python: str) -> subprocess.Popen[str]:
    """Start the tests in an environment, with a test database of their own."""
    name = f"{project.test_name}_{'own' if python == sys.executable else 'other'}"
    return subprocess.Popen(
        [python, "-m", "pytest", "-p", "no:cacheprovider"],
        cwd=project.directory,
        env=project.full_environment(
            PYTHONPATH=f"{project.directory}:{ROOT}", DATABASE=json.dumps({"TEST": {"NAME": name}})
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_each_has_a_template_of_its_own_and_finds_it_again(project: TemplateProject) -> None:
    other = next(find_others(), None)
    if other is None:
        pytest.skip("there is no .venv-* with another Django or another Python")
    made: list[list[str]] = []
    for says in ("building the template of", "test database from template"):
        runs = [start(project, python) for python in (sys.executable, other)]
        texts = [run.communicate(timeout=120)[0] for run in runs]
        assert all("1 passed" in text and text.count(says) == 1 for text in texts), texts
        made.append([re.findall(r"template (\w{8}) ", text)[0] for text in texts])
        found = [json.loads(file.read_text()) for file in project.directory.glob("found-*.jsonl")]
        assert [{**each, "database": ""} for each in found] == [{**ROWS, "database": ""}] * 2 * len(made)
    assert made[0] == made[1]
    assert len(set(made[0])) == 2
    templates = [Template.from_document("", json.dumps(each)) for each in project.documents()]
    by_versions = {(each.parts["Python"], each.parts["Django"]): each.short_name for each in templates if each}
    assert by_versions[tuple(map(str, ("{}.{}".format(*OWN), django.__version__)))] == made[0][0], by_versions
    assert project.databases() == project.templates()
