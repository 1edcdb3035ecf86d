"""The parts of a page that are the same for every map; :mod:`testdb_app.management.page` reads them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Assets:
    """The template of a page, its style and its script.

    ``template`` has ``{{title}}``, ``{{policy}}``, ``{{style}}``, ``{{data}}`` and ``{{script}}`` in it.
    """

    template: str
    style: str
    script: str
