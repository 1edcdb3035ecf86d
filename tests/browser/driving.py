"""A Chromium of the tests' own, and what a reader sees and does on a page."""

from __future__ import annotations

import base64
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--headless=new",
    "--no-sandbox",  # root has none
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--hide-scrollbars",
    "--disable-ipc-flooding-protection",  # it forbids to click 200 tables in ten seconds
)


class Keys:
    """The keys that make no character (https://www.w3.org/TR/webdriver2/#keyboard-actions)."""

    TAB, ENTER, SHIFT, ESCAPE, SPACE = "\ue004", "\ue007", "\ue008", "\ue00c", "\ue00d"
    END, HOME, ARROW_LEFT, ARROW_UP, ARROW_RIGHT, ARROW_DOWN = (
        "\ue010",
        "\ue011",
        "\ue012",
        "\ue013",
        "\ue014",
        "\ue015",
    )


def give_up(reason: str) -> None:
    """Skip the test; in CI, where a browser has to be, fail it."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def start_browser(folder: Path) -> Any:
    """Start Chromium with a profile in *folder*, in which nothing of the user's is."""
    try:
        from selenium import webdriver
    except ImportError:
        give_up("Selenium is not installed: it is in the dependency group dev")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        give_up("there is no Chromium with a chromedriver here (Debian's packages chromium and chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = str(chromium)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in (*FLAGS, f"--user-data-dir={folder}"):
        options.add_argument(flag)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(driver)))
    browser.set_script_timeout(180)  # 10,000 tables on a busy machine
    return browser


class Reader:
    """Somebody who looks at a page: what is there, by the words that are on it."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, path: Path, *, address: str = "", width: int = 1440, height: int = 900, **media: str) -> None:
        """Open a file afresh, in a window of that size; *media* are features such as ``prefers_color_scheme="dark"``."""
        self.driver.get_log("browser")
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        self.set_media(**media)
        self.driver.get("about:blank")
        self.driver.get(path.as_uri() + address)
        assert self.run("return performance.getEntriesByName('ready').length") == 1, self.driver.get_log("browser")

    def set_media(self, media: str = "", **features: str) -> None:
        """Pretend to be paper ("print"), or a reader with those preferences."""
        given = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": given})

    def run(self, script: str, *arguments: Any) -> Any:
        """Run a script in the page and return what it returns."""
        return self.driver.execute_script(script, *arguments)

    def press(self, *keys: str) -> None:
        """Press keys, wherever the focus is."""
        self.driver.switch_to.active_element.send_keys(*keys)

    def search(self, text: str) -> None:
        """Type into the search, in place of what is there."""
        field = self.driver.find_element("id", "query")
        field.clear()
        field.send_keys(text)

    @property
    def complaints(self) -> list[str]:
        """What the browser wrote to its console since the page was opened."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    @property
    def labels(self) -> list[str]:
        """The names on the boxes, from left to right and from top to bottom."""
        return list(
            self.run("return [...document.querySelectorAll('.node.table .name')].map((name) => name.textContent)")
        )

    def box(self, label: str) -> Any:
        """Return the box with that name on it."""
        script = """
            return [...document.querySelectorAll('.node.table')].find(
                (node) => node.querySelector('.name').textContent === arguments[0])"""
        found = self.run(script, label)
        assert found is not None, label
        return found

    def click(self, label: str) -> None:
        """Click the box with that name on it."""
        # Scrolled into sight first, as a reader would; the window then has the box where the mouse goes.
        box = self.box(label)
        self.run("arguments[0].scrollIntoView({block: 'center', inline: 'center', behavior: 'instant'})", box)
        box.click()

    def marked(self, kind: str) -> set[str]:
        """The names on the boxes of a class: "towards", "from", "hit"."""
        script = (
            "return [...document.querySelectorAll(`.node.table.${arguments[0]} .name`)].map((name) => name.textContent)"
        )
        return set(self.run(script, kind))

    def text(self, selector: str) -> str:
        """The text that is seen in an element."""
        return str(self.driver.find_element("css selector", selector).text)

    @property
    def title(self) -> str:
        """The heading of the panel."""
        return str(self.run("return document.querySelector('#panel h2').textContent"))

    def part(self, heading: str) -> list[str]:
        """The lines of the panel below a heading that begins so, up to the next."""
        script = """
            const all = [...document.getElementById('panel').children];
            const start = all.findIndex((each) => (each.querySelector('summary') ?? each).textContent.startsWith(arguments[0]));
            if (start < 0) return null;
            const end = all.findIndex((each, place) => place > start && ['H3', 'DETAILS'].includes(each.tagName));
            const part = all.slice(start, end < 0 ? undefined : end);
            return part.flatMap((each) => [...each.querySelectorAll('li, tr')].map((line) => line.innerText));"""
        found = self.run(script, heading)
        assert found is not None, f"no part {heading!r}"
        return [" ".join(line.split()) for line in found]

    @property
    def focused(self) -> str:
        """What has the focus: its label, or else its text."""
        script = """
            const element = document.activeElement;
            return element.querySelector('.name')?.textContent ?? element.getAttribute('aria-label') ?? (element.id === 'query' ? 'Search' : element.textContent)"""
        return str(self.run(script))

    def print(self) -> bytes:
        """Print to PDF, on the paper that the page asks for."""
        answer = self.driver.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})
        return base64.b64decode(answer["data"])

    def accessible(self) -> list[dict[str, Any]]:
        """What a screen reader is told of: every node of the tree that is not left out."""
        nodes = self.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        return [node for node in nodes if not node["ignored"]]
