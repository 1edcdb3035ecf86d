"""What a template depends on: each change of it is a miss that names it, and each other change is a hit."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.db import connections

from tests.creation.projects import TemplateProject, drop_all, make_template_project
from tests.scratch import connect_as_superuser

pytestmark = pytest.mark.postgresql

# Looks a template up as a run does, and builds none.
PROBE = """
import os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
import django
django.setup()
from django.conf import settings
from django.db import connections
from django.test.utils import setup_test_environment
setup_test_environment()

class Disabled:
    '''What pytest-django's --no-migrations puts there.'''
    def __contains__(self, item):
        return True
    def __getitem__(self, item):
        return None

if "--no-migrations" in sys.argv:
    settings.MIGRATION_MODULES = Disabled()
from testdb_app.creation.templates import find_for, open_store
with open_store(connections["default"]) as store:
    template, why = find_for(store)
print("HIT" if template else f"MISS {why}")
"""

SETTINGS = """
from modules import Unlistable
INSTALLED_APPS += ["thirdparty"]
MIGRATION_MODULES = Unlistable(**json.loads(os.environ.get("MODULES", "{}")))
"""

MODULES = """
class Unlistable:
    '''A mapping that Django can only ask.'''
    def __init__(self, **modules):
        self.modules = modules
    def __contains__(self, label):
        return label in self.modules
    def __getitem__(self, label):
        return self.modules[label]
"""

USE = """
from django.db import migrations
from rates import RATE
from thirdparty.models import LIMIT

def use(apps, editor):
    from thirdparty import helpers
    apps.get_model("shop", "Colour").objects.using(editor.connection.alias).filter(name=f"{RATE} {helpers.limit()}").delete()

class Migration(migrations.Migration):
    dependencies = [("shop", "0002_seed"), ("thirdparty", "0001_initial")]
    operations = [migrations.RunPython(use, migrations.RunPython.noop)]
"""

THIRD_PARTY = """
from django.db import migrations, models

class Migration(migrations.Migration):
    initial = True
    operations = [migrations.CreateModel("Thing", [("id", models.BigAutoField(primary_key=True))])]
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, django_db_blocker: Any) -> Iterator[TemplateProject]:
    """A project whose template was built by a run of pytest."""
    folder = tmp_path_factory.mktemp("invalidation")
    with django_db_blocker.unblock():
        connections["default"].ensure_connection()
        (folder / "project").mkdir()
        project = make_template_project(folder / "project")
        project.add_settings(SETTINGS)
        project.write("modules.py", MODULES)
        project.write("probe.py", PROBE)
        project.write("shop/migrations/0003_use.py", USE)
        for name, text in {
            "site-packages/thirdparty-1.0.dist-info/METADATA": "Name: thirdparty\nVersion: 1.0\n",
            "site-packages/thirdparty/__init__.py": "",
            "site-packages/thirdparty/helpers.py": "def limit():\n    return 1\n",
            "site-packages/thirdparty/models.py": "from django.db import models\nLIMIT = 1\nclass Thing(models.Model):\n    pass\n",
            "site-packages/thirdparty/migrations/__init__.py": "",
            "site-packages/thirdparty/migrations/0001_initial.py": THIRD_PARTY,
            "editable/rates.py": "RATE = 1\n",
        }.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        path = str(folder / "site-packages")
        # What pytest has made in the folder of temporary files does not count.
        (folder / "temporary").mkdir()
        project.environment["TMPDIR"] = str(folder / "temporary")
        project.environment["PYTHONPATH"] = ":".join(
            [path, str(folder / "editable"), project.full_environment()["PYTHONPATH"]]
        )
        project.tests().must_build("there is none yet").must_find()
        yield project
        drop_all(project)
        connections["default"].close()


Change = Callable[[str], str]


@contextmanager
def changed(path: Path, change: Change | None) -> Iterator[None]:
    """Change a file while the block runs; None removes it."""
    before = path.read_text() if path.exists() else None
    if change is None:
        path.unlink()
    else:
        path.write_text(change(before or ""))
    try:
        yield
    finally:
        if before is None:
            path.unlink()
        else:
            path.write_text(before)


def swap(before: str, after: str) -> Change:
    """Return a change that replaces a text."""

    def change(text: str) -> str:
        assert before in text
        return text.replace(before, after)

    return change


EMPTY = "from django.db import migrations\nclass Migration(migrations.Migration):\n    dependencies = [('shop', '0003_use')]\n"

# File (relative to the project), change, and what the reason says; None for a hit.
FILES: dict[str, tuple[str, Change | None, str | None]] = {
    "a migration is edited": (
        "shop/migrations/0001_initial.py",
        swap("max_length=20", "max_length=21"),
        "changed: shop/migrations/0001_initial.py",
    ),
    "a migration is added": ("shop/migrations/0004_more.py", lambda _: EMPTY, "new shop/migrations/0004_more.py"),
    "a migration is removed": ("shop/migrations/0003_use.py", None, "removed shop/migrations/0003_use.py"),
    "a file beside the migrations": (
        "shop/migrations/extra.sql",
        lambda _: "SELECT 1",
        "changed: shop/migrations/extra.sql",
    ),
    "a .sql file that a migration runs": ("shop/views.sql", swap("1 AS", "2 AS"), "changed: shop/views.sql"),
    "a helper of RunPython": ("shop/pricing.py", swap("RATE = 1", "RATE = 2"), "changed: shop/pricing.py"),
    "a constant one import away": ("shop/constants.py", swap("+ 1", "+ 2"), "changed: shop/constants.py"),
    "a constant two imports away": ("shop/deeper.py", swap("1", "2"), "changed: shop/deeper.py"),
    "a fixture file": (
        "shop/fixtures/colours.json",
        swap("fixture", "file"),
        "changed: shop/fixtures/colours.json",
    ),
    "a model of an app without migrations": (
        "legacy/models.py",
        swap("max_length=10", "max_length=11"),
        'changed: models of "legacy"',
    ),
    "an app that is installed": (
        "settings.py",
        lambda text: text + "\nINSTALLED_APPS += ['django.contrib.sites']",
        'new app "sites"',
    ),
    "a router": (
        "settings.py",
        lambda text: text + "\nDATABASE_ROUTERS = ['shop.router.Router']",
        "setting DATABASE_ROUTERS",
    ),
    "a module that no migration runs": ("shop/other.py", lambda text: text + "# more", None),
    "a model of an app with migrations": ("shop/models.py", swap("max_length=20", "max_length=22"), None),
    "a test": ("test_finds.py", lambda text: text + "\n# more", None),
    "a time": ("shop/migrations/0001_initial.py", lambda text: text, None),
    "a backup of an editor": ("shop/migrations/0001_initial.py~", lambda _: "backup", None),
    "a third-party app that is upgraded": (
        "../site-packages/thirdparty/migrations/0002_more.py",
        lambda _: EMPTY.replace("shop", "thirdparty").replace("0003_use", "0001_initial"),
        "new thirdparty.migrations: 0002_more.py",
    ),
    "a third-party migration that is patched": (
        "../site-packages/thirdparty/migrations/0001_initial.py",
        swap("Thing", "Object"),
        "changed: thirdparty.migrations: 0001_initial.py",
    ),
    "a distribution that is installed": (
        "../site-packages/other-2.0.egg-info",
        lambda _: "Version: 2.0",
        "new other",
    ),
    "a module of an editable install": ("../editable/rates.py", swap("1", "2"), "changed: ../editable/rates.py"),
}

# Environment, arguments of the probe, and what the reason says; None for a hit.
SURROUNDINGS: dict[str, tuple[dict[str, str], tuple[str, ...], str | None]] = {
    "nothing": ({}, (), None),
    "a setting that RunPython reads": ({"COLOURS": "blue"}, (), "changed: setting SHOP_COLOURS"),
    "a setting that nothing reads": ({"SHADE": "dark"}, (), None),
    "a variable that RunPython reads": ({"SHOP_MODE": "b2b"}, (), "changed: variable SHOP_MODE"),
    "a variable that nothing reads": ({"SHOP_COLOR": "b2b"}, (), None),
    "--no-migrations": ({}, ("--no-migrations",), "removed shop/migrations/extra.sql"),
    "MIGRATE: False": ({"DATABASE": json.dumps({"TEST": {"MIGRATE": False}})}, (), "removed shop/migrations/extra.sql"),
    "another name of the test database": ({"DATABASE": json.dumps({"TEST": {"NAME": "test_gw3"}})}, (), None),
    "another database": ({"DATABASE": json.dumps({"NAME": "another"})}, (), None),
    "the search path": (
        {"DATABASE": json.dumps({"OPTIONS": {"options": "-c search_path=public"}})},
        (),
        "changed: database options",
    ),
    "the time zone of the connection": ({"DATABASE": json.dumps({"TIME_ZONE": "Asia/Tokyo"})}, (), "database options"),
    "MIGRATION_MODULES that cannot be listed, with the same module": (
        {"MODULES": json.dumps({"shop": "shop.migrations"})},
        (),
        None,
    ),
    "MIGRATION_MODULES that cannot be listed, with none": (
        {"MODULES": json.dumps({"thirdparty": None})},
        (),
        'app "thirdparty"',
    ),
    "TEMPLATE_DEPENDS on a variable": (
        {"SETTINGS": json.dumps({"TESTDB": {"TEMPLATES": True, "TEMPLATE_DEPENDS": ["env:HOME"]}})},
        (),
        "variable HOME",
    ),
    "TEMPLATE_DEPENDS on a file": (
        {"SETTINGS": json.dumps({"TESTDB": {"TEMPLATES": True, "TEMPLATE_DEPENDS": ["shop/other.*"]}})},
        (),
        "shop/other.py",
    ),
    "EXCLUDE": (
        {"SETTINGS": json.dumps({"TESTDB": {"TEMPLATES": True, "EXCLUDE": ["shop_book"]}})},
        (),
        'TESTDB["EXCLUDE"]',
    ),
    "USE_TZ": ({"SETTINGS": json.dumps({"USE_TZ": False})}, (), "changed: setting USE_TZ"),
    "LANGUAGE_CODE": ({"SETTINGS": json.dumps({"LANGUAGE_CODE": "de"})}, (), "setting LANGUAGE_CODE"),
}


def look_up(project: TemplateProject, *arguments: str, **environment: str) -> str | None:
    """Return why a look-up misses, or None if it hits."""
    done = project.run("probe.py", *arguments, **environment).must_pass()
    word, _, why = done.stdout.strip().partition(" ")
    assert word in {"HIT", "MISS"}, done.stdout
    return why if word == "MISS" else None


def must_say(found: str | None, expected: str | None) -> None:
    """Assert that a look-up hit or missed as expected, with that reason."""
    assert found is None if expected is None else found is not None and expected in found, found


@pytest.mark.parametrize("what", FILES)
def test_a_file(built: TemplateProject, what: str) -> None:
    name, change, expected = FILES[what]
    if "router" in what:
        built.write("shop/router.py", "class Router:\n    pass\n")
    with changed(built.directory / name, change):
        must_say(look_up(built), expected)


@pytest.mark.parametrize("what", SURROUNDINGS)
def test_surroundings(built: TemplateProject, what: str) -> None:
    environment, arguments, expected = SURROUNDINGS[what]
    must_say(look_up(built, *arguments, **environment), expected)


def test_a_distribution_that_is_upgraded_is_named_with_its_versions(built: TemplateProject) -> None:
    before = built.directory / "../site-packages/thirdparty-1.0.dist-info"
    after = before.with_name("thirdparty-1.1.dist-info")
    before.rename(after)
    try:
        must_say(look_up(built), "changed: thirdparty 1.0 -> 1.1")
    finally:
        after.rename(before)
    assert look_up(built) is None


def test_a_template_with_another_collation_version_is_refused_by_the_server_and_the_run_says_so(
    project: TemplateProject,
) -> None:
    """The version of the system is in the key. This is what a template of another system looks like."""
    project.tests()
    (template,) = project.templates()
    with connect_as_superuser("postgres") as connection:
        connection.execute("UPDATE pg_database SET datcollversion = '0.1' WHERE datname = %s", [template])
    ran = project.tests().must_find()
    assert any(line.startswith('no template for "default": template database') for line in ran.lines), ran.text
    assert any("collation version" in line for line in ran.lines), ran.text
    project.tests("--create-db").must_build("it was asked for").must_find()
    project.tests().must_use().must_find()
    assert project.databases() == project.templates()


@pytest.fixture
def server_folder() -> Iterator[Path]:
    """A folder that the server can read, whoever runs it."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_an_extension_that_is_upgraded_on_the_server(project: TemplateProject, server_folder: Path) -> None:
    with connect_as_superuser("postgres") as connection:
        if connection.info.server_version < 180_000:
            pytest.skip("extension_control_path is new in PostgreSQL 18")
    folder = server_folder / "extension"
    folder.mkdir()
    control = "default_version = '{}'\nrelocatable = true\ntrusted = true\n"
    (folder / "shopext.control").write_text(control.format("1.0"))
    (folder / "shopext--1.0.sql").write_text("CREATE FUNCTION shop_one() RETURNS int LANGUAGE sql AS 'SELECT 1';")
    (folder / "shopext--1.0--1.1.sql").write_text("CREATE FUNCTION shop_two() RETURNS int LANGUAGE sql AS 'SELECT 2';")
    project.as_superuser(f"ALTER ROLE {{}} SET extension_control_path TO '{folder.parent}:$system'", project.role)
    project.add_migration("0003_extension", 'migrations.RunSQL("CREATE EXTENSION shopext")')
    project.tests().must_find()
    project.tests().must_use().must_find()
    (folder / "shopext.control").write_text(control.format("1.1"))
    project.tests().must_build("(changed: extension shopext 1.0 -> 1.1)").must_find()
    project.tests().must_use().must_find()
