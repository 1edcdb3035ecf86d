"""Pictures of the dependency map, one module a format. Pure: a :class:`Picture` comes in, text goes out."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from testdb_app.rendering import as_html, as_json, dot, mermaid, order, tree
from testdb_app.rendering.assets import Assets
from testdb_app.rendering.cycles import Cycle
from testdb_app.rendering.paint import PLAIN, Paint
from testdb_app.rendering.picture import Picture
from testdb_app.rendering.reach import reach

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FORMATS: Mapping[str, Callable[[Picture], str]] = MappingProxyType(
    {
        "tree": tree.render,
        "order": order.render,
        "json": as_json.render,
        "dot": dot.render,
        "mermaid": mermaid.render,
        "html": as_html.render,
    }
)
"""The formats by name. Each function returns text that ends with a newline, or nothing at all."""

__all__ = ["FORMATS", "PLAIN", "Assets", "Cycle", "Paint", "Picture", "reach"]
