"""How Sphinx builds the site: ``sphinx-build -W --keep-going -n docs build/docs``.

Nothing is fetched, neither by the build nor by a reader's browser: no inventory of other projects, no font, no script.
"""

from __future__ import annotations

import os
import re
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

from docutils import nodes  # noqa: E402
from sphinx import addnodes  # noqa: E402

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
autodoc_default_options = {"show-inheritance": True}  # members are named in the pages: all, or those that people use
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


def first_sentence(env: BuildEnvironment, page: str) -> str:
    """Return what a page begins with, on one line. Tables and lists are no sentences."""
    found = [each for each in env.get_doctree(page).findall(nodes.paragraph) if isinstance(each.parent, nodes.section)]
    return re.split(r"(?<=[.?])\s", " ".join(found[0].astext().split()))[0]


def write_llms_txt(app: Sphinx, exception: Exception | None) -> None:
    """Write ``llms.txt`` beside the pages: every page with its first sentence, under the captions of the contents."""
    if exception is not None or app.builder.format != "html":
        return
    env, lines = app.env, [f"# {project}", "", f"> {first_sentence(app.env, 'index')}"]
    for contents in env.get_doctree("index").findall(addnodes.toctree):
        lines += ["", f"## {contents['caption']}", ""]
        for page in contents["includefiles"]:
            for name in [page, *env.toctree_includes.get(page, [])]:
                title, address = env.titles[name].astext(), app.builder.get_target_uri(name)
                lines.append(f"- [{title}]({address}): {first_sentence(env, name)}")
    (Path(app.outdir) / "llms.txt").write_text("\n".join(lines) + "\n", "utf-8")


def setup(app: Sphinx) -> None:
    """Connect what is above."""
    app.connect("missing-reference", resolve_bare_name)
    app.connect("build-finished", write_llms_txt)
