"""A browser for the run, and pages to open in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command

from testdb_app.showdeps import FORMATS
from testdb_app.showdeps.html import read_assets
from testdb_app.showdeps.picture import Picture
from tests.browser.driving import Reader, start_browser


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run them once in a matrix: on PostgreSQL alone. What is in the page, tests/showdeps tests on every database."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.postgresql)


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The browser: one for all tests of a process, as it takes a second to start."""
    made = start_browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.quit()


@pytest.fixture
def reader(driver: Any) -> Iterator[Reader]:
    """Somebody at the browser, who found nothing to complain about when the test is over."""
    made = Reader(driver)
    yield made
    assert made.complaints == []
    assert made.run("return performance.getEntriesByType('resource').map((entry) => entry.name)") == []


@pytest.fixture
def write_page(tmp_path: Path) -> Callable[[Picture], Path]:
    """Return a function that writes the page of a picture."""

    def write(picture: Picture) -> Path:
        path = tmp_path / "map.html"
        path.write_text(FORMATS["html"](replace(picture, assets=read_assets())), encoding="utf-8")
        return path

    return write


@pytest.fixture
def demo(db: None, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes the page of the database that the run is on, by the command itself."""

    def write(*labels: str, **options: Any) -> Path:
        path = tmp_path / "demo.html"
        call_command("showdeps", *labels, format="html", output=str(path), verbosity=0, **options)
        return path

    return write
