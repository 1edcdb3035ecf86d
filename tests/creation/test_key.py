"""What a template depends on: each change is found and named, and what changes nothing is no change."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from testdb_app.creation.key import Manifest, StaticKey, describe_differences, full_digest
from tests.creation.key_project import Project

Change = str | Callable[[str], str] | None


def replaced(old: str, new: str) -> Callable[[str], str]:
    def replace(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    return replace


def appended(text: str) -> Callable[[str], str]:
    return lambda before: before + text


EMPTY_MIGRATION = """
from django.db import migrations
class Migration(migrations.Migration):
    dependencies = [("shop", "0002_seed")]
    operations = []
"""
NO_APP_MIGRATES = [
    f'app "{label}" {module} -> without migrations'
    for label, module in (
        ("acme_rates", "acme_rates.migrations"),
        ("acme_tags", "acme_tags.migrations"),
        ("auth", "django.contrib.auth.migrations"),
        ("contenttypes", "django.contrib.contenttypes.migrations"),
        ("shop", "shop.migrations"),
    )
]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    made = Project(tmp_path_factory.mktemp("key"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def built(project: Project) -> dict[str, Any]:
    return project.ask(do="build", server={"PostgreSQL": "15.4", "collation version": "2.36"})


@pytest.fixture
def differences(project: Project, built: dict[str, Any]) -> Callable[..., list[str]]:
    """Return what has changed since the project was built."""

    def read(**request: Any) -> list[str]:
        return project.differences(built, **{"server": {"PostgreSQL": "15.4", "collation version": "2.36"}, **request})

    return read


CHANGED_FILES: dict[str, tuple[str, Change, list[str]]] = {
    "a migration edited under its name": (
        "shop/migrations/0001_initial.py",
        replaced("max_length=20", "max_length=21"),
        ["shop/migrations/0001_initial.py"],
    ),
    "a migration added": ("shop/migrations/0003_x.py", EMPTY_MIGRATION, ["new shop/migrations/0003_x.py"]),
    "a migration removed": ("shop/migrations/0002_seed.py", None, ["removed shop/migrations/0002_seed.py"]),
    "a statement beside the migrations": ("shop/migrations/sql/view.sql", "SELECT 1", ["new shop/migrations/sql/view.sql"]),
    "a module that RunPython calls": ("shop/pricing.py", replaced("RATE = 1", "RATE = 2"), ["shop/pricing.py"]),
    "a constant one import away": ("shop/constants.py", replaced("STEP = 1", "STEP = 2"), ["shop/constants.py"]),
    "a constant two imports away": ("shop/deeper.py", "DEEP = 2\n", ["shop/deeper.py"]),
    "data of a module with models": ("shop/models.py", replaced('TITLES = ["Seed"]', 'TITLES = ["Other"]'), ["shop/models.py"]),
    "data that a module with models imports": ("shop/defaults.py", "STOCK = 6\n", ["shop/defaults.py"]),
    "a fixture": ("shop/fixtures/colours.json", replaced('"fixture"', '"other"'), ["shop/fixtures/colours.json"]),
    "a fixture of that name elsewhere": ("colours.xml", "<x/>", ["list of colours*"]),
    "a file that is read": ("seeds/first.txt", "2", ["seeds/first.txt"]),
    "a file that is gone": ("seeds/first.txt", None, ["removed seeds/first.txt", "list of seeds/*"]),
    "a file in a folder that is listed": ("seeds/second.txt", "2", ["list of seeds/*"]),
    "a model of an app without migrations": ("legacy/models.py", replaced("max_length=10", "max_length=11"), ['models of "legacy"']),
    "a name that permissions bear": ("legacy/models.py", replaced("old thing", "older thing"), ['models of "legacy"']),
    "the condition of a constraint": ("legacy/models.py", replaced('code__gt="a"', 'code__gt="b"'), ['models of "legacy"']),
    "an app installed": (
        "settings.py",
        replaced('"legacy"', '"legacy", "django.contrib.sites"'),
        [
            "setting INSTALLED_APPS",
            'new app "sites"',
            "receivers of migrate signals",
            "new django.contrib.sites.migrations: 0001_initial.py",
            "new django.contrib.sites.migrations: 0002_alter_domain_unique.py",
            "new django.contrib.sites.migrations: __init__.py",
        ],
    ),
    "apps in another order": (
        "settings.py",
        replaced('"shop", "legacy"', '"legacy", "shop"'),
        ["setting INSTALLED_APPS"],
    ),
    "the search path": (
        "settings.py",
        replaced('"OPTIONS": {}', '"OPTIONS": {"options": "-c search_path=x"}'),
        ["database options"],
    ),
    "a table of a cache": (
        "settings.py",
        replaced("locmem.LocMemCache", "db.DatabaseCache"),
        ["cache tables"],
    ),
    "a base setting": ("settings.py", replaced('"German"', '"Deutsch"'), ["setting LANGUAGES"]),
    "a receiver connected in an app's ready()": (
        "shop/apps.py",
        appended("""
    def ready(self):
        from django.db.models.signals import post_migrate
        post_migrate.connect(fill, sender=self)
def fill(**kwargs): pass
"""),
        ["receivers of migrate signals"],
    ),
    "a module of an editable install": ("editable/acme_rates/__init__.py", "def rate(): return 8\n", ["../libraries/editable/acme_rates/__init__.py"]),
    "a migration of an editable install": (
        "editable/acme_rates/migrations/0001_initial.py",
        appended("# changed"),
        ["../libraries/editable/acme_rates/migrations/0001_initial.py", "acme_rates.migrations: 0001_initial.py"],
    ),
    "a migration of a library": (
        "site-packages/acme_tags/migrations/0002_more.py",
        EMPTY_MIGRATION,
        ["new acme_tags.migrations: 0002_more.py"],
    ),
    "a distribution installed": ("site-packages/psycopg_x-3.2.dist-info/METADATA", "", ["new psycopg-x"]),
    "an upgrade that was broken off": ("site-packages/acme_tags-2.0.dist-info/METADATA", "", ["acme-tags 1.0 -> 1.0, 2.0"]),
    "an archive of the same version": (
        "site-packages/from_git-2.0.dist-info/direct_url.json",
        '{"url": "file:///x.whl", "archive_info": {"hashes": {"sha256": "cc33"}}}',
        ["from-git 2.0 (aa11) -> 2.0 (44aec6332a)"],
    ),
    "a description that is no JSON": (
        "site-packages/from_git-2.0.dist-info/direct_url.json",
        "{",
        ["from-git 2.0 (aa11) -> 2.0"],
    ),
    "an upgrade from git that keeps the version": (
        "site-packages/from_git-2.0.dist-info/direct_url.json",
        replaced("aa11", "bb22"),
        ["from-git 2.0 (aa11) -> 2.0 (bb22)"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CHANGED_FILES)
def test_a_changed_file_is_found_and_named(project: Project, differences: Callable[..., list[str]], case: str) -> None:
    name, change, expected = CHANGED_FILES[case]
    with project.changed(name, change):
        assert differences() == expected
    assert differences() == []


OTHER_REQUESTS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "a setting that RunPython reads": ({"environment": {"COLOURS": "blue"}}, ["setting SHOP_COLOURS"]),
    "a setting that was read at the import": ({"environment": {"SHADE": "dark"}}, ["setting SHOP_SHADE"]),
    "a setting that a library has read at its import": ({"environment": {"ACME_TAG": "x"}}, ["setting ACME_TAG"]),
    "a variable that a migration names": ({"environment": {"SHOP_CURRENCY": "USD"}}, ["variable SHOP_CURRENCY"]),
    "a variable whose name is in a variable": ({"environment": {"SHOP_MODE": "x"}}, ["variable SHOP_MODE"]),
    "TEST MIGRATE False": (
        {"migrate": False},
        ["database options", 'new models of "shop"', *NO_APP_MIGRATES],
    ),
    "--no-migrations": ({"no_migrations": True}, ['new models of "shop"', *NO_APP_MIGRATES]),
    "another alias": ({"alias": "other"}, ["alias default -> other"]),
    "an upgrade of the server": ({"server": {"PostgreSQL": "15.5", "collation version": "2.36"}}, ["PostgreSQL 15.4 -> 15.5"]),
    "an image with another libc": (
        {"server": {"PostgreSQL": "15.4", "collation version": "2.41"}},
        ["collation version 2.36 -> 2.41"],
    ),
    "a variable that the user names": (
        {"environment": {"DEPENDS": "env:SHOP_FLAVOUR", "SHOP_FLAVOUR": "x"}},
        ["new variable SHOP_FLAVOUR"],
    ),
    "a setting that the user names": ({"environment": {"DEPENDS": "setting:CACHES"}}, ["new setting CACHES"]),
    "files that the user names": (
        {"environment": {"DEPENDS": "**/test_*.py,shop/view?.py"}},
        ["new shop/views.py", "new tests/test_shop.py"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHER_REQUESTS)
def test_another_state_of_the_process_is_found_and_named(differences: Callable[..., list[str]], case: str) -> None:
    request, expected = OTHER_REQUESTS[case]
    found = differences(**request)
    assert [each for each in expected if each not in found] == []
    if "migrations" not in " ".join(expected):
        assert found == expected


UNCHANGED: dict[str, tuple[str, Change]] = {
    "a module that no migration ran": ("shop/other.py", appended("# changed")),
    "a model of an app with migrations": ("auth_views.py", "x = 1"),
    "a view": ("shop/views.py", appended("# changed")),
    "a test": ("tests/test_shop.py", appended("# changed")),
    "the same text, written again": ("shop/migrations/0001_initial.py", lambda text: text),
    "a compiled migration": ("shop/migrations/__pycache__/0009_x.cpython-311.pyc", "x"),
    "a compiled migration without source": ("shop/migrations/0009_x.pyc", "x"),
    "an editor's backup": ("shop/migrations/0001_initial.py~", "x"),
    "an editor's swap file": ("shop/migrations/.0001_initial.py.swp", "x"),
    "a file in a folder where one was read": ("shop/fixtures/other.json", "[]"),
    "the project's own metadata": ("shop.egg-info/PKG-INFO", "Version: 2"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNCHANGED)
def test_what_the_database_does_not_depend_on_changes_nothing(
    project: Project, differences: Callable[..., list[str]], case: str
) -> None:
    name, change = UNCHANGED[case]
    with project.changed(name, change):
        assert differences() == []


def test_a_field_of_a_model_whose_migration_is_to_come_changes_nothing(project: Project, tmp_path: Path) -> None:
    """Stock Django makes the same database. The model's module counts only where data is taken from it."""
    own = Project(tmp_path)
    own.path("shop/pricing.py").write_text("def title(): return 'x'\n")
    built = own.ask(do="build")
    with own.changed("shop/models.py", replaced("max_length=20", "max_length=22")):
        assert own.differences(built) == []
    own.close()


@pytest.mark.parametrize(
    ("name", "code"),
    [
        # A module that was imported before, and a file that is changed while migrations run.
        ("shop/pricing.py", "import shop.pricing; change()"),
        (
            "seeds/first.txt",
            "import shop.pricing; title = shop.pricing.title; shop.pricing.title = lambda: (title(), change())[0]",
        ),
    ],
)
def test_a_file_that_was_changed_after_it_was_used_makes_the_next_run_build_again(
    project: Project, name: str, code: str
) -> None:
    path = project.path(name)
    command = [sys.executable, "-c", f"open({str(path)!r}, 'a').write('# changed')"]
    change = f"import subprocess\ndef change(): subprocess.run({command!r}, check=True)\n"
    with project.changed(name, lambda text: text):
        time.sleep(0.05)  # the clock of files is slower
        project.restart()
        built = project.ask(do="build", code=change + code)
        assert project.differences(built) == [name]
        time.sleep(0.05)
        project.restart()
        assert project.differences(project.ask(do="build")) == []


def test_another_working_directory_and_another_name_of_the_test_database_change_nothing(
    differences: Callable[..., list[str]], tmp_path: Path
) -> None:
    assert differences(folder=str(tmp_path)) == []
    assert differences(environment={"TEST_NAME": "test_gw3", "CACHE": "gw3", "PYTEST_XDIST_WORKER": "gw3"}) == []


def test_secrets_and_temporary_folders_of_each_start_change_nothing(
    project: Project, built: dict[str, Any], differences: Callable[..., list[str]]
) -> None:
    """The settings have a random SECRET_KEY, and a new folder as MEDIA_ROOT, which a migration reads."""
    assert "MEDIA_ROOT" in built["manifest"]["settings"]
    assert differences() == []
    again = project.ask(do="build", server={"PostgreSQL": "15.4", "collation version": "2.36"})
    assert (again["digest"], again["manifest"]) == (built["digest"], built["manifest"])


def test_a_copy_of_the_project_elsewhere_has_the_same_key(
    project: Project, built: dict[str, Any], tmp_path: Path
) -> None:
    copy = Project(tmp_path)
    assert (copy.folder / "settings.py").read_text() == (project.folder / "settings.py").read_text()
    found = copy.ask(do="build", server={"PostgreSQL": "15.4", "collation version": "2.36"})
    copy.close()
    # How far testdb_app itself is away, which these tests run from its sources.
    own = {name for name in {**built["used"], **found["used"]} if "/testdb_app/" in name}
    assert built["static"] == found["static"]
    assert {name: text for name, text in built["used"].items() if name not in own} == {
        name: text for name, text in found["used"].items() if name not in own
    }


def test_an_upgrade_of_a_library_is_named_by_its_versions(
    project: Project, differences: Callable[..., list[str]]
) -> None:
    old, new = (
        project.path("site-packages/acme_tags-1.0.dist-info"),
        project.path("site-packages/acme_tags-1.1.dist-info"),
    )
    old.rename(new)
    egg, newer_egg = (
        project.path("site-packages/old_style-1.5-py3.11.egg-info"),
        project.path("site-packages/old_style-1.6-py3.11.egg-info"),
    )
    egg.rename(newer_egg)
    try:
        assert differences() == ["acme-tags 1.0 -> 1.1", "old-style 1.5 -> 1.6"]
    finally:
        new.rename(old)
        newer_egg.rename(egg)


def test_what_is_left_out_by_name_may_change(project: Project) -> None:
    leave_out = "!setting:SHOP_COLOURS,!env:SHOP_MODE,!seeds/**,!shop/*/000[1]*.py"
    built = project.ask(do="build", environment={"DEPENDS": leave_out})
    with (
        project.changed("seeds/first.txt", "other"),
        project.changed("seeds/second.txt", "another"),
        project.changed("shop/migrations/0001_initial.py", appended("# x")),
    ):
        other = {"DEPENDS": leave_out, "COLOURS": "blue", "SHOP_MODE": "x"}
        assert project.differences(built, environment=other) == []
        assert project.differences(built, environment={**other, "SHADE": "dark"}) == ["setting SHOP_SHADE"]


def test_a_pattern_without_a_match_is_an_error_that_names_it(project: Project) -> None:
    found = project.ask(do="read", environment={"DEPENDS": "shop/*.py,data/**/*.csv"})
    assert "'data/**/*.csv', which matches no file below" in found["refused"]
    assert "refused" not in project.ask(do="read", environment={"DEPENDS": "!data/**/*.csv"})


def test_files_with_odd_names_and_links_are_read_once(project: Project, differences: Callable[..., list[str]]) -> None:
    folder = project.path("shop/migrations")
    odd = os.fsencode(folder) + b"/\xff\xfe.sql"
    (folder / "data").mkdir()
    (folder / "data/loop").symlink_to(folder)
    (folder / "loop").symlink_to(folder)
    (folder / "lost").symlink_to(folder / "none.sql")
    Path(os.fsdecode(odd)).write_text("SELECT 1")
    try:
        assert differences() == [r"new shop/migrations/\xff\xfe.sql"]
    finally:
        Path(os.fsdecode(odd)).unlink()
        for name in ("loop", "lost", "data/loop"):
            (folder / name).unlink()
        (folder / "data").rmdir()


def test_migrations_without_an_init_file_count_with_the_models(
    project: Project, differences: Callable[..., list[str]]
) -> None:
    """Django finds no migrations in such a folder, and makes the tables of the models."""
    with project.changed("shop/migrations/__init__.py", None):
        assert differences() == ['new models of "shop"', "removed shop/migrations/__init__.py"][::-1]


def test_a_file_that_may_not_be_read_is_no_error(project: Project, built: dict[str, Any]) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read each file")
    path = project.path("shop/migrations/0001_initial.py")
    path.chmod(0)
    try:
        assert project.ask(do="read")["static"]["shop/migrations/0001_initial.py"].startswith("unreadable")
    finally:
        path.chmod(0o644)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("", "project"),
        ("import sys, types; sys.modules['settings'] = types.ModuleType('settings')", "elsewhere"),
        ("import sys; sys.modules['settings'].__path__ = [sys.modules['settings'].__file__]", "project"),
    ],
)
def test_the_root_is_the_folder_of_the_settings_or_the_working_directory(
    project: Project, tmp_path: Path, code: str, expected: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    root = Path(project.ask(do="read", folder=str(elsewhere), code=code)["root"])
    assert root == {"project": project.folder, "elsewhere": elsewhere}[expected]


def test_a_project_behind_a_link_has_the_root_and_the_key_of_the_real_one(
    project: Project, built: dict[str, Any], tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(project.folder)
    path = project.environment["PYTHONPATH"].replace(str(project.folder), str(link))
    other = Project.__new__(Project)
    other.folder, other.libraries, other.process = link, project.libraries, None
    other.environment = {**project.environment, "PYTHONPATH": path}
    found = other.ask(do="build", server={"PostgreSQL": "15.4", "collation version": "2.36"})
    other.close()
    assert (found["root"], found["digest"]) == (str(project.folder), built["digest"])


VALUES: list[tuple[str, str]] = [
    ("{'b', 'a'}", "{'c', 'a'}"),
    ("{'b': 1, 'a': 2}", "{'b': 2, 'a': 1}"),
    ("['a', 'b']", "['b', 'a']"),
    ("Path('/srv/a')", "Path('/srv/b')"),
    ("base / 'a'", "base / 'b'"),
    ("Decimal('1.10')", "Decimal('1.20')"),
    ("timedelta(days=1)", "timedelta(days=2)"),
    ("re.compile('a')", "re.compile('a', re.I)"),
    ("gettext_lazy('a')", "gettext_lazy('b')"),
    ("reverse_lazy('no such view')", "reverse_lazy('nor this')"),
    ("partial(print, 'a')", "partial(print, 'b')"),
    ("print", "len"),
    ("Colour.RED", "Colour.BLUE"),
    ("Point(1, 2)", "Point(1, 3)"),
    ("MinValueValidator(1)", "MinValueValidator(2)"),
    ("SimpleLazyObject(lambda: 'a')", "SimpleLazyObject(lambda: 'b')"),
    ("mark_safe('a')", "mark_safe('b')"),
    ("Q(a=1) | Q(b=2)", "Q(a=1) & Q(b=2)"),
]  # fmt: skip
PREAMBLE = """
import re, sys
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from enum import Enum
from functools import partial
from pathlib import Path
from django.core.validators import MinValueValidator
from django.db.models import Q
from django.conf import settings
from django.urls import reverse_lazy
from django.utils.functional import SimpleLazyObject
from django.utils.safestring import mark_safe
from django.utils.translation import activate, gettext_lazy
base = Path(sys.modules["settings"].__file__).parent
class Colour(Enum):
    RED = 1
    BLUE = 2
@dataclass
class Point:
    x: int
    y: int
class Failing:
    def deconstruct(self): raise ValueError
class Plain: pass
"""


def test_values_of_settings_are_compared_by_what_they_mean(project: Project) -> None:
    """In another process, under another language and with another hash seed, a value is the same."""
    manifest = {"settings": [f"VALUE_{index}" for index in range(len(VALUES))]}

    def read(column: int, code: str = "") -> list[str]:
        lines = [f"settings.VALUE_{index} = {row[column]}" for index, row in enumerate(VALUES)]
        used = project.ask(do="read", manifest=manifest, code=PREAMBLE + code + "\n".join(lines))["used"]
        return [used[f"setting {name}"] for name in manifest["settings"]]

    before = read(0)
    assert read(0, "activate('de')\n") == before
    assert [
        VALUES[index][0] for index, (one, other) in enumerate(zip(before, read(1), strict=True)) if one == other
    ] == []
    project.environment["PYTHONHASHSEED"] = "7"
    project.restart()
    assert read(0) == before


def test_a_value_that_cannot_be_read_is_no_error(project: Project) -> None:
    code = "settings.A = SimpleLazyObject(lambda: 1 / 0)\nsettings.B = Failing()\nsettings.C = Plain()\nsettings.D = []\nsettings.D.append(settings.D)"
    manifest = {"settings": ["A", "B", "C", "D", "NONE"]}
    one, other = (project.ask(do="read", manifest=manifest, code=PREAMBLE + code)["used"] for _ in range(2))
    assert one == other
    assert one["setting A"] == "unreadable (ZeroDivisionError)"


def test_differences_come_with_the_most_telling_first() -> None:
    before = {
        "format": "1", "Django": "5.2.19", "Python": "3.11", "PostgreSQL": "15.4", "setting LANGUAGES": "#1", "variable MODE": "#1",
        "shop/pricing.py": "#1", "shop/seed.json": "#1", "models of legacy": "#1", "app shop": "shop.migrations", "distribution psycopg": "3.2.1",
        "taggit.migrations: 0001_initial.py": "#1", "distribution attrs": "1",
    }  # fmt: skip
    now = {
        **{name: f"{text}0" for name, text in before.items()},
        "shop/seed.json": "gone",
        "shop/migrations/0003_x.py": "#1",
        "Django": "6.0",
    }
    del now["distribution attrs"]
    assert describe_differences(before, now) == [
        "Django 5.2.19 -> 6.0",
        "Python 3.11 -> 3.110",
        "format 1 -> 10",
        "PostgreSQL 15.4 -> 15.40",
        "new shop/migrations/0003_x.py",
        "shop/pricing.py",
        "removed shop/seed.json",
        "setting LANGUAGES",
        "variable MODE",
        'models of "legacy"',
        'app "shop" shop.migrations -> shop.migrations0',
        "removed attrs",
        "psycopg 3.2.1 -> 3.2.10",
        "taggit.migrations: 0001_initial.py",
    ]
    assert describe_differences(before, before) == []
    assert describe_differences({"shop/seed.json": "gone"}, {"shop/seed.json": "#1"}) == ["new shop/seed.json"]


def test_digests_are_of_the_parts_and_not_of_their_order() -> None:
    one, other = StaticKey({"a": "1", "b": "2"}), StaticKey({"b": "2", "a": "1"})
    assert one.digest == other.digest
    assert len({one.digest, StaticKey({"a": "1", "b": "3"}).digest, StaticKey({"a": "1b", "": "2"}).digest}) == 3
    assert (
        full_digest(one, {"x": "1", "y": "2"})
        == full_digest(other, {"y": "2", "x": "1"})
        != full_digest(one, {"x": "1"})
    )
    assert len(one.digest) == len(full_digest(one, {})) == 32
    assert StaticKey({"\udcff": "1"}).digest


def test_a_manifest_survives_json() -> None:
    made = Manifest(files=("../a.py", "b\udcff.sql"), listings=("c/*",), settings=("D",), environment=("E",))
    assert Manifest.from_dict(made.as_dict()) == made
    assert Manifest.from_dict({"files": ["a"], "of another version": ["x"]}) == Manifest(files=("a",))


def test_a_library_that_is_linked_file_by_file_is_a_library(tmp_path: Path) -> None:
    """As installers do that keep one copy of each file for all environments."""
    own = Project(tmp_path)
    store = tmp_path / "store"
    for path in list(own.path("site-packages/acme_tags").rglob("*.py")):
        kept = store / path.relative_to(own.path("site-packages"))
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, kept)
        path.symlink_to(kept)
    built = own.ask(do="build")
    own.close()
    assert not [name for name in built["manifest"]["files"] if "acme_tags" in name]


@pytest.mark.benchmark
def test_the_key_of_500_migrations_is_cheap(tmp_path: Path) -> None:
    """At most 60 ms of CPU time, with the files that the build used, as far as they are the same ones."""
    own = Project(tmp_path)
    text = own.path("shop/migrations/0002_seed.py").read_text() + "# ä comment of a migration of usual size\n" * 50
    paths = [own.path(f"shop/migrations/{number:04}_more.py") for number in range(3, 501)]
    for number, path in enumerate(paths):
        path.write_text(f"{text}# {number}\n")
    os.sync()
    names = [path.relative_to(own.folder).as_posix() for path in paths]
    found: dict[str, list[list[float]]] = {"warm": [], "cold": []}
    for _ in range(10):
        for state, times in found.items():
            for path in paths if state == "cold" else ():
                with path.open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            times.append(own.ask(do="read", manifest={"files": names})["ms"])
    own.close()
    for state, times in found.items():
        cpu, wall = (sorted(column)[len(column) // 2] for column in zip(*times, strict=True))
        print(f"\nkey of 500 migrations, {state} page cache: {cpu:.1f} ms of CPU time, {wall:.1f} ms")
