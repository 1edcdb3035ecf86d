"""Render the dependency graph in several formats. The package is pure: each format turns a :class:`Picture` into text."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from testdb_app.showdeps import export, html, text
from testdb_app.showdeps.picture import PLAIN, Assets, Cycle, Paint, Picture, reach

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FORMATS: Mapping[str, Callable[[Picture], str]] = MappingProxyType(
    {
        "tree": text.render_tree,
        "order": text.render_order,
        "json": export.render_json,
        "dot": export.render_dot,
        "mermaid": export.render_mermaid,
        "html": html.render_html,
    }
)
"""The formats by name. Each function returns text that ends with a newline, or an empty text."""

__all__ = ["FORMATS", "PLAIN", "Assets", "Cycle", "Paint", "Picture", "reach"]
