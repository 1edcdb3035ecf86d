"""``manage.py testtemplates`` for an alias on SQLite, whose templates are files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.commands.test_testtemplates import Outcome, forget, register, run_command


@pytest.fixture(params=["memory", "file"])
def folder(request: Any, tmp_path: Path, settings: Any, django_db_blocker: Any) -> Iterator[Path]:
    """The folder of the templates of the alias "lite", whose test database is in memory, or a file."""
    folder = tmp_path / "templates"
    settings.TESTDB = {**getattr(settings, "TESTDB", {}), "TEMPLATE_CACHE": str(folder)}
    with django_db_blocker.unblock():
        name = str(tmp_path / "test.sqlite3") if request.param == "file" else None
        register("lite", ENGINE="django.db.backends.sqlite3", NAME=str(tmp_path / "app.sqlite3"), TEST={"NAME": name})
        yield folder
        forget("lite")


def run(*arguments: str, **options: Any) -> Outcome:
    return run_command(*arguments, "--database", "lite", **options).must_pass()


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.sqlite3")}


def test_a_template_in_a_file_is_built_listed_explained_and_dropped(folder: Path) -> None:
    assert '"lite": the next run builds its template (there is none yet)' in run().stdout
    assert "built now" in run("--build").stdout
    assert "fits (made" in run("--build").stdout
    (name,) = files(folder)
    document = json.loads(run("--format", "json").stdout)
    (template,) = document["templates"]
    assert (Path(template["name"]).name, template["fits"], template["place"]) == (name, True, str(folder))
    assert template["size"] == (folder / name).stat().st_size
    assert '"lite": the next run uses template' in run("--explain").stdout
    assert "Cancelled" in run("--drop", answer="no\n").stderr
    assert files(folder) == {name}
    run("--drop", "--no-input")
    assert files(folder) == set()
    assert run("--drop").stdout == "Nothing to drop.\n"


def test_a_file_without_a_document_is_left_alone(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    mine = folder / "0123456789abcdef_lite.sqlite3"
    mine.write_bytes(b"mine")
    assert run("--drop", "--no-input").stdout == "Nothing to drop.\n"
    assert run("--drop", "--all-projects", "--no-input").stdout == "Nothing to drop.\n"
    assert mine.read_bytes() == b"mine"
