"""A live server over what a module has committed once. In the suite's pytest.ini: testdb_reset_transactional = true."""

from typing import Any
from urllib.request import urlopen

import pytest

from testdb_app.data import make
from testdb_app.demo.models import Series, Work


@pytest.fixture(scope="module")
def catalogue(reset_db_module: None) -> list[Work]:
    """Many rows, made once: they are there for the server in each test, and a reset takes them back after the module."""
    series = make(Series)
    return [make(Work, series=series, title=f"Poems {number:03}") for number in range(100)]


def titles(live_server: Any) -> list[str]:
    """Ask the server."""
    with urlopen(f"{live_server.url}/works") as answer:
        return answer.read().decode().splitlines()


def test_the_page_has_all(catalogue: list[Work], live_server: Any) -> None:
    assert len(titles(live_server)) == 100


def test_a_work_that_is_added_comes_last(catalogue: list[Work], live_server: Any) -> None:
    added = make(Work, series=catalogue[0].series, title="Zoology")
    assert titles(live_server)[-1] == "Zoology"
    added.delete()  # the tests of the module share what is committed


def test_the_page_has_what_it_had(catalogue: list[Work], live_server: Any) -> None:
    assert len(titles(live_server)) == 100
