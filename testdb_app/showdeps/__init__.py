"""Pictures of the dependency graph, by format. Pure: a :class:`Picture` comes in, text goes out."""

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
"""The formats by name. Each function returns text that ends with a newline, or nothing at all."""

__all__ = ["FORMATS", "PLAIN", "Assets", "Cycle", "Paint", "Picture", "reach"]
