"""Every case of ``python -m tests.benchmarks``, with a few rounds: that it measures, prints and draws.

For figures, run ``python -m tests.benchmarks`` itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.benchmarks.__main__ import groups, main

pytestmark = [pytest.mark.benchmark, pytest.mark.postgresql]


@pytest.mark.parametrize(
    "name", [name for name in groups() if name not in {"tables-10000", "life", "life-10000", "templates-migrations"}]
)
def test_a_case_is_measured_printed_and_drawn(name: str, tmp_path: Path, django_db_blocker: Any) -> None:
    kept, plot = tmp_path / "run.json", tmp_path / "run.svg"
    draws = (
        []
        if name in {"data", "endurance", "left-tables", "life-100", "network", "sessions", "testcases"}
        or name.startswith("templates")
        else ["--plot", str(plot)]
    )
    with django_db_blocker.unblock():
        run = main(["--rounds", "3", "--only", name, "--json", str(kept), *draws])
    assert all(series.times for case in run.cases for series in case.series)
    assert main(["--from", str(kept)]) == run
    if draws and run.cases:
        assert ElementTree.parse(plot).getroot().tag.endswith("svg")
