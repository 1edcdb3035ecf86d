"""A small project in a folder, with all that a template may depend on, and the process that reads its keys."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import testdb_app
from testdb_app.creation.key import describe_differences

PROJECT = {
    "settings.py": """
import os, tempfile
from pathlib import Path
SECRET_KEY = "x" + os.urandom(4).hex()
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "shop", "legacy", "acme_tags", "acme_rates", "testdb_app"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "shop.sqlite3", "OPTIONS": {}, "TEST": {}}}
DATABASES["other"] = {**DATABASES["default"], "TEST": {}}
if os.environ.get("TEST_NAME"):
    DATABASES["default"]["TEST"]["NAME"] = os.environ["TEST_NAME"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "LOCATION": os.environ.get("CACHE", "a")}}
MEDIA_ROOT = tempfile.mkdtemp()
SEEDS = Path(__file__).parent / "seeds"
SHOP_COLOURS = os.environ.get("COLOURS", "red,green").split(",")
SHOP_SHADE = os.environ.get("SHADE", "light")
ACME_TAG = os.environ.get("ACME_TAG", "new")
LANGUAGES = [("en", "English"), ("de", "German")]
TESTDB = {"TEMPLATE_DEPENDS": [item for item in os.environ.get("DEPENDS", "").split(",") if item]}
""",
    "shop/__init__.py": "",
    "shop/apps.py": """
from django.apps import AppConfig
class ShopConfig(AppConfig):
    name = "shop"
""",
    "shop/models.py": """
from django.db import models
from shop.defaults import STOCK
TITLES = ["Seed"]
LABELS = ["unused"]
class Book(models.Model):
    title = models.CharField(max_length=100)
    notes = models.CharField(max_length=20, default="")
""",
    "shop/defaults.py": "STOCK = 5\n",
    "shop/deeper.py": "DEEP = 1\n",
    "shop/constants.py": """
from django.conf import settings
from .deeper import DEEP
STEP = 1
SHADE = getattr(settings, "SHOP_SHADE", "none")
""",
    "shop/pricing.py": """
import os
from django.conf import settings
from shop.constants import DEEP, SHADE, STEP
from shop.models import STOCK, TITLES
RATE = 1
MODE = "SHOP_" + "MODE"
def title():
    seeds = [path.read_text() for path in sorted(settings.SEEDS.glob("*.txt"))]
    return f"{TITLES} {RATE} {STEP} {SHADE} {DEEP} {STOCK} {os.environ.get(MODE)} {seeds} {settings.MEDIA_ROOT}"
""",
    "shop/other.py": "def unused(): return 5\n",
    "shop/views.py": "def view(request): return None\n",
    "shop/fixtures/colours.json": '[{"model": "shop.book", "fields": {"title": "fixture"}}]',
    "shop/migrations/__init__.py": "",
    "shop/migrations/0001_initial.py": """
from django.db import migrations, models
class Migration(migrations.Migration):
    initial = True
    dependencies = []
    operations = [migrations.CreateModel("Book", [
        ("id", models.BigAutoField(primary_key=True)), ("title", models.CharField(max_length=100)),
        ("notes", models.CharField(max_length=20, default=""))])]
""",
    "shop/migrations/0002_seed.py": """
import os
from pathlib import Path
from django.conf import settings
from django.core.management import call_command
from django.db import migrations
import acme_rates
def seed(apps, editor):
    from shop.pricing import title
    create = apps.get_model("shop", "Book").objects.create
    create(title=title()[:100])
    for colour in settings.SHOP_COLOURS:
        create(title=f"{colour} {acme_rates.rate()}")
    create(title=os.getenv("SHOP_CURRENCY", "EUR"))
    call_command("loaddata", "colours.json", verbosity=0)
    (Path(settings.MEDIA_ROOT) / "made.txt").write_text("made")
class Migration(migrations.Migration):
    dependencies = [("shop", "0001_initial")]
    operations = [migrations.RunPython(seed)]
""",
    "seeds/first.txt": "1",
    "legacy/__init__.py": "",
    "legacy/models.py": """
from django.db import models
class Old(models.Model):
    code = models.CharField(max_length=10)
    class Meta:
        verbose_name = "old thing"
        constraints = [models.CheckConstraint(condition=models.Q(code__gt="a"), name="code")]
""",
    "tests/test_shop.py": "def test_nothing(): pass\n",
    "conftest.py": "",
    # A library, and one that is installed from a folder, to be edited.
    "site-packages/acme_tags-1.0.dist-info/METADATA": "Name: acme-tags\n",
    "site-packages/acme_rates-0.1.dist-info/direct_url.json": '{"url": "file:///x", "dir_info": {"editable": true}}',
    "site-packages/from_git-2.0.dist-info/direct_url.json": '{"url": "https://x", "vcs_info": {"vcs": "git", "commit_id": "aa11"}}',
    "site-packages/old_style-1.5-py3.11.egg-info": "Version: 1.5\n",
    "site-packages/acme_tags/__init__.py": "",
    "site-packages/acme_tags/conf.py": 'from django.conf import settings\nTAG = getattr(settings, "ACME_TAG", "none")\n',
    "site-packages/acme_tags/models.py": "from acme_tags import conf\n",
    "site-packages/acme_tags/migrations/__init__.py": "",
    "site-packages/acme_tags/migrations/0001_initial.py": """
from django.db import migrations
from acme_tags import conf
def tag(apps, editor):
    assert conf.TAG
class Migration(migrations.Migration):
    operations = [migrations.RunPython(tag)]
""",
    "editable/acme_rates/__init__.py": "def rate(): return 7\n",
    "editable/acme_rates/migrations/__init__.py": "",
    "editable/acme_rates/migrations/0001_initial.py": """
from django.db import migrations
class Migration(migrations.Migration):
    operations = []
""",
}


class Project:
    """The project in a folder. Libraries are beside it, as they are in life."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "project"
        self.libraries = folder / "libraries"
        for name, text in PROJECT.items():
            self.path(name).parent.mkdir(parents=True, exist_ok=True)
            self.path(name).write_text(text.lstrip("\n"))
        (folder / "temporary").mkdir()
        places = [self.folder, self.path("site-packages"), self.path("editable"), Path(testdb_app.__file__).parents[1]]
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "DJANGO", "COV_"))},
            "DJANGO_SETTINGS_MODULE": "settings",
            "PYTHONPATH": os.pathsep.join(map(str, places)),
            # What is in pytest's folders is no part of a project, and this one is there.
            "TMPDIR": str(folder / "temporary"),
            "PYTHONDONTWRITEBYTECODE": "1",  # two versions of a file may be written within one second
        }
        self.process: subprocess.Popen[str] | None = None

    def path(self, name: str) -> Path:
        return (self.libraries if name.startswith(("site-packages", "editable")) else self.folder) / name

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request to the process (see :mod:`tests.creation.key_probe`), and return its answer."""
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "ignore", str(Path(__file__).with_name("key_probe.py"))],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        assert "error" not in found, found["error"]
        return found

    def differences(self, built: Mapping[str, Any], **request: Any) -> list[str]:
        """Return what has changed since the build, in words. Nothing has if the digests are equal."""
        found = self.ask(do="read", manifest=built["manifest"], **request)
        assert not found["connected"]
        described = describe_differences({**built["used"], **built["static"]}, {**found["used"], **found["static"]})
        assert (described == []) == (found["digest"] == built["digest"])
        return described

    @contextmanager
    def changed(self, name: str, change: str | Callable[[str], str] | None) -> Iterator[None]:
        """Write a file anew, by a text or by a function of the text that it has; None removes it."""
        path = self.path(name)
        before = path.read_text() if path.exists() else None
        made = [folder for folder in path.parents if not folder.exists()]
        if change is None:
            path.unlink()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(change if isinstance(change, str) else change(before or ""))
        try:
            yield
        finally:
            path.unlink(missing_ok=True) if before is None else path.write_text(before)
            for folder in made:
                folder.rmdir()

    def restart(self) -> None:
        """Have the next request answered by a new process."""
        self.close()
        self.process = None

    def close(self) -> None:
        if self.process is not None and self.process.stdin is not None and self.process.stdout is not None:
            self.process.stdin.close()
            self.process.wait()
            self.process.stdout.close()
