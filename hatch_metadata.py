"""What the package index shows: the project's addresses, and the README with links that lead to the repository.

The repository's address stands in one place, ``[tool.testdb_app]`` of ``pyproject.toml``. On the package index no file is beside
the README, so its relative links are made absolute: pages of this version's tag, and pictures as raw files.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(
    r"(?P<picture>!?)(?P<text>\[[^\]]*\])\((?!https?://|#|mailto:)(?P<path>[^)#\s]+)(?P<anchor>#[^)]*)?\)"
)


class CustomMetadataHook(MetadataHookInterface):
    """Hatchling's hook: it adds the fields ``urls`` and ``readme``."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add the fields to *metadata*. Raises KeyError if there is no address."""
        root = Path(self.root)
        project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))
        address, tag = project["tool"]["testdb_app"]["repository"].rstrip("/"), f"v{metadata['version']}"
        metadata["urls"] = {
            "Documentation": f"{address}/blob/{tag}/docs/index.md",
            "Repository": address,
            "Issues": f"{address}/issues",
            "Changelog": f"{address}/blob/{tag}/CHANGELOG.md",
        }
        text = make_absolute((root / "README.md").read_text("utf-8"), address, tag)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


def make_absolute(text: str, address: str, tag: str) -> str:
    """Return Markdown whose relative links lead to the *tag* of the repository at *address*."""
    # GitHub serves pictures from a host of its own, and SVG as a picture only with this query.
    raw = re.sub(
        r"^https://github\.com/(.+)", rf"https://raw.githubusercontent.com/\1/{tag}/{{}}?sanitize=true", address
    )
    raw = raw if raw != address else f"{address}/raw/{tag}/{{}}"

    def replace(link: re.Match[str]) -> str:
        path = link["path"]
        target = raw.format(path) if link["picture"] else f"{address}/blob/{tag}/{path}{link['anchor'] or ''}"
        return f"{link['picture']}{link['text']}({target})"

    return _LINK.sub(replace, text)
