"""How Sphinx builds the site: ``sphinx-build -W --keep-going -n docs build/docs``.

Nothing is fetched, neither by the build nor by a reader's browser: no inventory of other projects, no font, no script.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "testproject.settings")
# Modules are imported, and nothing is connected to: the build needs no server.
os.environ.setdefault("TESTPROJECT_DATABASE", "sqlite")

import django  # noqa: E402 - after the settings were named

django.setup()

from testdb_app import __version__  # noqa: E402

if TYPE_CHECKING:
    from docutils.nodes import Element, reference
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

project = "testdb_app"
author = "The testdb_app maintainers"
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
exclude_patterns = ["examples", "pictures", "**/drawings"]

myst_heading_anchors = 3
myst_enable_extensions = ["deflist"]
suppress_warnings: list[str] = []

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88

nitpicky = True
# What is not documented here and would take the inventories of others to link to.
nitpick_ignore_regex = [
    (
        r"py:.*",
        r"(django|psycopg|pytest|_pytest|collections|typing|contextlib|argparse|unittest|datetime|pathlib|random|threading|concurrent)(\..*)?",
    ),
    (
        r"py:.*",
        r"AbstractContextManager|BaseDatabaseWrapper|Error|testdb_app\.graph\.N|N|(testdb_app\.[\w.]+\.)?_[A-Z]",
    ),
    (r"py:.*", r"(testdb_app\.sessions\.\w+\.)?(SessionOptions|SharedPool|SessionData)|abc\.ABC"),
    (r"py:.*", r"(bool|bytes|dict|float|frozenset|int|list|object|set|str|tuple|type|Any|None|Exception|enum\..*)"),
]

html_theme = "furo"
html_title = f"testdb_app {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"navigation_with_keys": True}
html_show_sourcelink = False
html_copy_source = False
html_show_copyright = False
copybutton_prompt_text = "$ "


def resolve_bare_name(app: Sphinx, env: BuildEnvironment, node: Element, contnode: Element) -> reference | None:
    """Link a docstring's ``:class:`ResetError```, which names a class of another module as the code does, by its name alone."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or not target or target.startswith("testdb_app."):
        return None
    domain: Any = env.domains["py"]
    found = [name for name, entry in domain.objects.items() if name.endswith(f".{target}") and not entry.aliased]
    if len(found) != 1:
        return None
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", found[0], node, contnode)


def setup(app: Sphinx) -> None:
    """Connect what is above."""
    app.connect("missing-reference", resolve_bare_name)
