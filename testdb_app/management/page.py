"""The parts of the page that ``showdeps --format html`` writes: files beside :mod:`testdb_app.rendering`, which reads none."""

from __future__ import annotations

from importlib.resources import files

from testdb_app.rendering.assets import Assets

SCRIPTS = ("model.js", "elements.js", "map.js", "panel.js", "main.js")
"""The page's script: one after the other they are one module."""


def read_assets() -> Assets:
    """Read the template, the style and the script from the installed package, also from inside an archive."""
    folder = files("testdb_app.rendering") / "page"
    return Assets(
        template=(folder / "page.html").read_text("utf-8"),
        style=(folder / "page.css").read_text("utf-8"),
        script="\n".join((folder / name).read_text("utf-8") for name in SCRIPTS),
    )
