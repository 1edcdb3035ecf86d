"""A live server, asked by a library and by a browser. In the suite's pytest.ini: testdb_reset_transactional = true."""

import shutil
import subprocess
from collections.abc import Callable
from typing import Any
from urllib.request import urlopen

import pytest

from testdb_app.demo.models import Genre, Work
from testdb_app.testcases import ResetLiveServerTestCase

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


def test_the_server_shows_what_the_test_committed(live_server: Any, make_work: Callable[..., Work]) -> None:
    make_work("Sea Poems")
    with urlopen(f"{live_server.url}/works") as answer:
        assert answer.read().decode() == "Sea Poems"


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here")
def test_a_browser_shows_it_too(live_server: Any, make_work: Callable[..., Work]) -> None:
    make_work("Land Poems")
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", f"{live_server.url}/works"]
    page = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert "Land Poems" in page


def test_the_rows_of_the_migration_are_still_there(live_server: Any) -> None:
    assert Genre.objects.count() == 11


class PageTest(ResetLiveServerTestCase):
    """The same for unittest's classes, which need no line in pytest.ini."""

    def test_the_page_is_empty(self) -> None:
        with urlopen(f"{self.live_server_url}/works") as answer:
            self.assertEqual(answer.read(), b"")
