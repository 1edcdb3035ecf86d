"""The site as it is built: no warning, no link inside that leads nowhere, nothing fetched from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

from tests.documentation.pages import DOCS, ROOT


class Page(HTMLParser):
    """What a page has: anchors, links, and what a browser would fetch to show it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.names: set[str] = set()
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.anchors |= {given.get("id", ""), given.get("name", "")}
        self.names.add(given.get("name", "") if tag == "meta" else "")
        if tag == "a":
            self.links.append(given.get("href", ""))
        else:
            self.fetched += [given[name] for name in ("src", "href") if given.get(name)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Page]:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--quiet", "-W", "--keep-going", "--nitpicky", "-j", "2"]
    done = subprocess.run([*command, str(DOCS), str(folder)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {path: Page(path) for path in folder.rglob("*.html")}


def test_every_link_inside_leads_to_an_anchor_that_is_there(site: dict[Path, Page]) -> None:
    wrong = []
    for path, page in site.items():
        for link in page.links:
            target, anchor = urldefrag(link)
            if target.startswith(("http://", "https://", "mailto:")):
                continue
            found = (path.parent / unquote(target)).resolve() if target else path
            if not found.exists() or (anchor and unquote(anchor) not in site[found].anchors):
                wrong.append(f"{path.name}: {link}")
    assert wrong == []


def test_a_page_fetches_nothing_from_elsewhere(site: dict[Path, Page]) -> None:
    assert {each for page in site.values() for each in page.fetched if "//" in each} == set()


def test_every_page_of_the_sources_is_in_the_site_and_fits_a_phone(site: dict[Path, Page]) -> None:
    folder = min(site, key=lambda path: len(path.parts)).parent
    for source in DOCS.rglob("*.md"):
        page = site[folder / source.relative_to(DOCS).with_suffix(".html")]
        assert "viewport" in page.names


def test_llms_txt_lists_every_page_with_what_it_begins_with(site: dict[Path, Page]) -> None:
    folder = min(site, key=lambda path: len(path.parts)).parent
    text = (folder / "llms.txt").read_text("utf-8")
    listed = dict(re.findall(r"^- \[.+\]\((\S+)\): (.{20,})$", text, re.MULTILINE))
    pages = {source.relative_to(DOCS).with_suffix(".html").as_posix() for source in DOCS.rglob("*.md")}
    assert listed.keys() == pages - {"index.html"}
    assert text.startswith("# testdb_app\n\n> testdb_app makes ")
