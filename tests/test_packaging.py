"""The wheel: what is in it, what it says of itself, and that it works on its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from email.message import Message
from email.parser import Parser
from pathlib import Path

import django
import pytest

import testdb_app

ROOT = Path(testdb_app.__file__).parents[1]
IN_THE_SOURCE = (
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "manage.py",
    "hatch_metadata.py",
    "testdb_app",
    "testproject",
    "tests",
    "docs",
)
# In place of the one that is not known yet.
ADDRESS = "https://github.com/somebody/django-testdb-app"

pytestmark = pytest.mark.skipif(
    not (ROOT / "pyproject.toml").exists(), reason="the tests run against an installed wheel"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """The two files that a release consists of, and the wheel installed on its own."""

    tree: Path
    wheel: Path
    sdist: Path
    installed: Path

    def names(self) -> set[str]:
        with zipfile.ZipFile(self.wheel) as wheel:
            return set(wheel.namelist())

    def metadata(self) -> Message:
        (path,) = self.installed.glob("*.dist-info/METADATA")
        return Parser().parsestr(path.read_text("utf-8"))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    pytest.importorskip("hatchling", reason="the wheel is built without a network")
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("built")
    tree = folder / "tree"
    tree.mkdir()
    leftovers = shutil.ignore_patterns("__pycache__", "*.pyc", "*.sqlite3", ".*")
    for name in IN_THE_SOURCE:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=leftovers)
        elif source.exists():
            shutil.copy(source, tree / name)
    project = (tree / "pyproject.toml").read_text()
    (tree / "pyproject.toml").write_text(
        re.sub(r'^repository = ".*"$', f'repository = "{ADDRESS}"', project, flags=re.MULTILINE)
    )
    # What a working copy has lying about.
    (tree / "testdb_app" / "__pycache__").mkdir()
    (tree / "testdb_app" / "__pycache__" / "left.cpython-311.pyc").write_bytes(b"")
    (tree / ".gitignore").write_text((ROOT / ".gitignore").read_text() if (ROOT / ".gitignore").exists() else "")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(tree))
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    installed = folder / "installed"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index", "--no-deps"]
    run(*pip, "--target", str(installed), str(wheel))
    return Built(tree=tree, wheel=wheel, sdist=sdist, installed=installed)


def run(*command: str, cwd: Path | None = None, **environment: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=cwd, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_has_the_package_whole_and_nothing_else(built: Built) -> None:
    package = {
        path.relative_to(built.tree).as_posix()
        for path in (built.tree / "testdb_app").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    info = f"django_testdb_app-{testdb_app.__version__}.dist-info"
    own = {f"{info}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "licenses/LICENSE")}
    extra = {name for name in built.names() if name == f"{info}/entry_points.txt"}
    assert built.names() == package | own | extra
    for needed in (
        "py.typed",
        "demo/migrations/0001_initial.py",
        "management/commands/resetdb.py",
        "showdeps/page/page.css",
        "showdeps/page/vendor/dagre.min.js",
        "showdeps/page/vendor/dagre.LICENSE.txt",
    ):
        assert f"testdb_app/{needed}" in built.names()


def test_the_wheel_is_for_every_platform(built: Built) -> None:
    assert built.wheel.name == f"django_testdb_app-{testdb_app.__version__}-py3-none-any.whl"


def test_the_source_distribution_has_the_tests_and_no_leftovers(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for needed in (
        "pyproject.toml",
        "LICENSE",
        "README.md",
        "manage.py",
        "tests/conftest.py",
        "testproject/settings.py",
    ):
        assert needed in names
    assert not [name for name in names if name.endswith((".pyc", ".sqlite3")) or "__pycache__" in name]


def test_the_metadata(built: Built) -> None:
    metadata = built.metadata()
    assert (metadata["Name"], metadata["Version"]) == ("django-testdb-app", testdb_app.__version__)
    assert (metadata["License-Expression"], metadata["License-File"]) == ("MIT", "LICENSE")
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])


def test_the_changelog_begins_with_this_version_and_its_date(built: Built) -> None:
    first = re.search(r"^## (.*)$", (built.tree / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert first
    assert re.fullmatch(rf"{re.escape(testdb_app.__version__)} \(20\d\d-\d\d-\d\d\)", first[1])


def test_the_readme_leads_to_files_of_this_version_on_the_package_index(built: Built) -> None:
    from readme_renderer import markdown

    page = markdown.render(built.metadata().get_payload())
    assert page
    links = {link for link in re.findall(r'(?:href|src)="([^"]+)"', page) if not link.startswith("#")}
    assert {link for link in links if not link.startswith("https://")} == set()
    tag = f"v{testdb_app.__version__}"
    pages = {
        link.removeprefix(f"{ADDRESS}/blob/{tag}/").partition("#")[0] for link in links if link.startswith(ADDRESS)
    }
    start = f"https://raw.githubusercontent.com/somebody/django-testdb-app/{tag}/"
    pictures = {link.removeprefix(start).partition("?")[0] for link in links if link.startswith(start)}
    assert len(pages) > 5
    assert pictures
    assert {name for name in pages | pictures if not (built.tree / name).is_file()} == set()


def test_the_addresses_come_from_one_place(built: Built) -> None:
    urls = dict(text.split(", ") for text in built.metadata().get_all("Project-URL", []))
    assert urls.keys() == {"Documentation", "Repository", "Issues", "Changelog"}
    assert all(url.startswith(ADDRESS) for url in urls.values())
    texts = [path for path in built.tree.rglob("*") if path.suffix in {".py", ".md", ".toml"} and path.is_file()]
    assert {path.name for path in texts if ADDRESS in path.read_text("utf-8")} == {
        "pyproject.toml",
        Path(__file__).name,
    }


def test_django_is_the_one_requirement_and_the_rest_are_extras(built: Built) -> None:
    requirements = built.metadata().get_all("Requires-Dist", [])
    plain = [text for text in requirements if "extra ==" not in text]
    assert [text.lower().replace(" ", "") for text in plain] == ["django>=5.2"]
    assert set(built.metadata().get_all("Provides-Extra", [])) == {"postgresql", "pytest"}
    by_extra = {
        extra: sorted(text.split(">")[0] for text in requirements if f"extra == '{extra}'" in text)
        for extra in ("postgresql", "pytest")
    }
    assert by_extra == {"postgresql": ["psycopg[binary]"], "pytest": ["pytest", "pytest-django"]}


def in_isolation(built: Built, code: str, *, cwd: Path, **settings: object) -> str:
    """Run code with the installed wheel and Django, and nothing of this working copy on the path."""
    lines = [
        "import sys",
        f"sys.path[:0] = [{str(built.installed)!r}, {str(cwd)!r}]",
        f"sys.path.append({str(Path(django.__file__).parents[1])!r})",
        "from django.conf import settings",
        f"settings.configure(**{settings!r})",
        "import django; django.setup()",
        code,
    ]
    # -S: no .pth file, such as the one that leads to this working copy.
    return run(sys.executable, "-I", "-S", "-W", "error", "-c", "\n".join(lines), cwd=cwd)


def sqlite(path: Path, *apps: str) -> dict[str, object]:
    database = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(path / "db.sqlite3")}
    auto = "django.db.models.BigAutoField"
    return {"INSTALLED_APPS": ["testdb_app", *apps], "DATABASES": {"default": database}, "DEFAULT_AUTO_FIELD": auto}


def test_the_installed_wheel_is_used_and_resets(built: Built, tmp_path: Path) -> None:
    code = """
import json, testdb_app
from django.core.management import call_command
from django.db import connection
with connection.cursor() as cursor:
    cursor.execute("CREATE TABLE item (id integer PRIMARY KEY)")
    cursor.execute("INSERT INTO item VALUES (1), (2)")
call_command("resetdb", "--no-input", "--format", "json", allow_database=[connection.settings_dict["NAME"]])
"""
    report = json.loads(in_isolation(built, code, cwd=tmp_path, **sqlite(tmp_path)))
    assert [(table["name"], table["rows"]) for table in report["tables"]] == [("main.item", 2)]


def test_the_installed_wheel_has_the_parts_of_the_page(built: Built, tmp_path: Path) -> None:
    code = """
from django.core.management import call_command
from django.db import connection
with connection.cursor() as cursor:
    cursor.execute("CREATE TABLE item (id integer PRIMARY KEY)")
call_command("showdeps", "--format", "html")
"""
    page = in_isolation(built, code, cwd=tmp_path, **sqlite(tmp_path))
    assert page.startswith("<!DOCTYPE html>")
    assert "main.item" in page


def test_it_is_the_wheel_that_was_imported(built: Built, tmp_path: Path) -> None:
    code = "import testdb_app; print(testdb_app.__file__)"
    assert in_isolation(built, code, cwd=tmp_path, **sqlite(tmp_path)).strip().startswith(str(built.installed))


DEMO = ("django.contrib.contenttypes", "testdb_app.demo")


@pytest.mark.parametrize("apps", [(), DEMO], ids=["alone", "with the demo"])
def test_installing_it_proposes_no_migration(built: Built, tmp_path: Path, apps: tuple[str, ...]) -> None:
    code = "from django.core.management import call_command; call_command('makemigrations', check_changes=True, dry_run=True)"
    assert in_isolation(built, code, cwd=tmp_path, **sqlite(tmp_path, *apps)) == "No changes detected\n"


def test_the_demos_models_are_the_demos_own(built: Built, tmp_path: Path) -> None:
    code = """
from django.core.management import call_command
call_command("migrate", verbosity=0)
from django.apps import apps
assert not list(apps.get_app_config("testdb_app").get_models(include_auto_created=True))
assert len(list(apps.get_app_config("testdb_demo").get_models())) > 5
"""
    in_isolation(built, code, cwd=tmp_path, **sqlite(tmp_path, *DEMO))


def test_the_app_alone_makes_no_table(built: Built, tmp_path: Path) -> None:
    code = """
from django.core.management import call_command
from django.db import connection
call_command("migrate", run_syncdb=True, verbosity=0)
print(sorted(connection.introspection.table_names()))
"""
    assert in_isolation(built, code, cwd=tmp_path, **sqlite(tmp_path)) == "[]\n"


def test_every_command_has_its_help(built: Built, tmp_path: Path) -> None:
    for command in ("resetdb", "showdeps"):
        code = f"from django.core.management import load_command_class; print(load_command_class('testdb_app', {command!r}).help)"
        assert in_isolation(built, code, cwd=tmp_path, **sqlite(tmp_path)).strip()
