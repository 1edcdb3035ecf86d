"""Rows that ``migrate`` made: a reset to empty says that they go, and the command has those of ``post_migrate`` made again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.core.management import call_command
from django.db.models.signals import post_migrate

from testdb_app.resetter import Resetter
from tests.commands.resetdb.running import resetdb
from tests.scratch import ScratchDatabase

GENRES = "Rows that data migrations made (testdb_demo.0002_first_genres) will not come back."
AGAIN = "Rows of auth.Permission, contenttypes.ContentType, sites.Site are made again by post_migrate"


@pytest.fixture
def migrated(scratch: ScratchDatabase, settings: Any) -> ScratchDatabase:
    settings.TESTDB = {"ALLOWED_DATABASES": [scratch.name]}
    call_command("migrate", database="scratch", verbosity=0, interactive=False)
    return scratch


@pytest.fixture
def failing() -> Iterator[str]:
    def fail_on_purpose(using: str, **_: object) -> None:
        raise ValueError("no answer")

    sender = apps.get_app_config("testdb_demo")
    post_migrate.connect(fail_on_purpose, sender=sender)
    yield f"{__name__}.failing.<locals>.fail_on_purpose"
    post_migrate.disconnect(fail_on_purpose, sender=sender)


def count(database: ScratchDatabase, table: str) -> int:
    return int(database.query(f"SELECT count(*) FROM {table}")[0][0])


def test_what_will_not_come_back_is_said_and_the_rest_is_made_again(migrated: ScratchDatabase) -> None:
    permissions, recorded = (
        count(migrated, "auth_permission"),
        migrated.query("SELECT * FROM django_migrations ORDER BY id"),
    )
    dry = resetdb("--dry-run")
    assert GENRES in dry.stdout
    assert AGAIN in dry.stdout
    assert json.loads(resetdb("--dry-run", "--format", "json").stdout)["data_migrations"] == [
        "testdb_demo.0002_first_genres"
    ]
    cancelled = resetdb(answer="no\n")
    assert GENRES in cancelled.stderr
    assert "resetdb --capture" in cancelled.stderr
    assert count(migrated, "testdb_demo_genre") == 11

    done = resetdb(answer=f"{migrated.name}\n")
    assert GENRES in done.stdout
    assert f"public.auth_permission {permissions}" in done.stdout
    assert "public.django_site 1" in done.stdout
    assert count(migrated, "testdb_demo_genre") == 0
    assert count(migrated, "auth_permission") == permissions
    assert migrated.query("SELECT * FROM django_migrations ORDER BY id") == recorded

    again = json.loads(resetdb("--no-input", "--format", "json").stdout)
    assert again["data_migrations"] == [], "their rows are gone already"
    assert again["post_migrate"]["public.auth_permission"] == permissions


@pytest.mark.parametrize("options", [("--to", "empty"), ("--no-post-migrate",)])
def test_nothing_is_sent_where_that_was_asked_for(migrated: ScratchDatabase, options: tuple[str, ...]) -> None:
    outcome = resetdb("--no-input", *options)
    assert GENRES in outcome.stdout
    assert "come back with the next manage.py migrate" in outcome.stdout
    assert count(migrated, "django_content_type") == 0
    call_command("migrate", database="scratch", verbosity=0, interactive=False)
    assert count(migrated, "django_content_type") > 0


def test_what_is_left_out_is_no_loss(migrated: ScratchDatabase) -> None:
    migrated.execute("INSERT INTO auth_group (name) VALUES ('readers')")
    assert "data migrations" not in resetdb("--dry-run", "auth.Group").stdout
    assert "data migrations" not in resetdb("--dry-run", "--exclude", "testdb_demo").stdout
    assert GENRES in resetdb("--dry-run", "testdb_demo").stdout
    assert json.loads(resetdb("--no-input", "auth.Group", "--format", "json").stdout)["post_migrate"] is None


def test_with_a_baseline_nothing_is_lost_and_nothing_sent(migrated: ScratchDatabase, failing: str) -> None:
    resetdb("--capture")
    migrated.execute("INSERT INTO auth_group (name) VALUES ('readers')")
    outcome = resetdb("--no-input")
    assert (outcome.status, "will not come back" in outcome.stdout) == (0, False)
    assert count(migrated, "testdb_demo_genre") == 11


def test_a_receiver_that_fails_is_named_and_the_reset_stays(migrated: ScratchDatabase, failing: str) -> None:
    outcome = resetdb("--no-input", "--format", "json")
    assert outcome.status == 1
    assert failing in outcome.error
    assert "ValueError: no answer" in outcome.error
    assert "The reset itself is committed" in outcome.error
    assert json.loads(outcome.stdout)["tables"], "the report is there all the same"
    assert count(migrated, "testdb_demo_genre") == 0


def test_the_python_api_sends_nothing(migrated: ScratchDatabase, failing: str) -> None:
    report = Resetter("scratch", to="empty").reset()
    assert report.tables
    assert count(migrated, "auth_permission") == 0


def test_on_sqlite_too(tmp_path: Path) -> None:
    """The steps of demo.sh: the genres are there after its last reset, and are lost only where nothing was captured."""
    root = Path(__file__).parents[3]
    environment = {**os.environ, "TESTPROJECT_DATABASE": "sqlite", "PYTHONPATH": str(root)}
    environment.pop("DATABASE_URL", None)
    (tmp_path / "one_file.py").write_text(
        "from testproject.settings import *\n"
        f"DATABASES = {{'default': {{'ENGINE': 'django.db.backends.sqlite3', 'NAME': {str(tmp_path / 'demo.sqlite3')!r}}}}}\n"
    )
    environment["PYTHONPATH"] = os.pathsep.join([str(root), str(tmp_path)])
    environment["DJANGO_SETTINGS_MODULE"] = "one_file"

    def manage(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "django", *arguments], env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout

    name = str(tmp_path / "demo.sqlite3")
    manage("migrate", "--verbosity", "0")
    shutil.copy(name, tmp_path / "kept.sqlite3")
    lost = manage("resetdb", "--no-input", "--allow-database", name)
    assert GENRES in lost
    assert "Then post_migrate made" in lost

    shutil.copy(tmp_path / "kept.sqlite3", name)
    steps = [
        line.split()[1:] for line in (root / "testproject" / "demo.sh").read_text().splitlines() if line[:4] == "run "
    ]
    for step in steps:
        output = manage(*(part.replace('"$name"', name) for part in step))
    assert "to baseline" in output
    assert "will not come back" not in output
    genres = "from testdb_app.demo.models import Genre; print(Genre.objects.count())"
    assert manage("shell", "-c", genres).split()[-1] == "11"
