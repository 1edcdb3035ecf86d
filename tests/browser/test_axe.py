"""The page as axe sees it, the checker of Deque Systems: no serious findings, whatever is open."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from pathlib import Path

import pytest

from tests.browser.driving import Reader

Demo = Callable[..., Path]

_FINDINGS = "return axe.run({resultTypes: ['violations']}).then((found) => found.violations.map((each) => [each.impact, each.id, each.nodes.map((node) => node.html).slice(0, 3)]))"


def serious(reader: Reader) -> list[list[object]]:
    reader.run(resources.files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8"))
    return [each for each in reader.run(_FINDINGS) if each[0] in {"serious", "critical"}]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_axe_has_no_serious_findings(reader: Reader, demo: Demo, width: int, scheme: str) -> None:
    reader.open(demo(), width=width, prefers_color_scheme=scheme)
    assert serious(reader) == []
    reader.search("loan")
    assert serious(reader) == []
    reader.click("testdb_demo_loan")
    assert serious(reader) == []


def test_axe_finds_what_is_wrong(reader: Reader, demo: Demo) -> None:
    reader.open(demo())
    reader.run(
        "document.getElementById('query').removeAttribute('aria-label'); document.querySelectorAll('label').forEach((each) => each.remove())"
    )
    assert serious(reader) != []
