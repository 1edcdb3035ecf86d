"""Run the tests a second time, without sharing, and compare their outcomes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from testdb_app.plugin import options

# The variable that has the run without sharing write its outcomes to a file.
_PATH = "TESTDB_SHARE_OUTCOMES"
_Outcomes = dict[str, list[str]]


class Outcomes:
    """Collects how each test has ended, phase by phase, and writes it to *path* at the end of the run."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.found: _Outcomes = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a phase that did not pass, and the call."""
        phases = self.found.setdefault(report.nodeid, [])
        if report.when == "call" or report.outcome != "passed":
            outcome = report.outcome if not hasattr(report, "wasxfail") else f"xfail, {report.outcome}"
            phases.append(f"{report.when} {outcome}")

    def pytest_sessionfinish(self) -> None:
        """Write them."""
        if self.path is not None:
            self.path.write_text(json.dumps(self.found))


class ShareVerification(Outcomes):
    """Runs pytest again with the same arguments and without sharing, after the run, and reports the tests that differ."""

    def __init__(self, config: pytest.Config) -> None:
        super().__init__(None)
        self.config = config
        self.lines: list[str] = []

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:  # type: ignore[override]
        """Run the tests again when the test databases of this run are gone. The run fails if an outcome differs."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "outcomes.json")
            done = subprocess.run(
                [sys.executable, *_warning_options(), "-m", "pytest", *self._arguments()],
                cwd=self.config.invocation_params.dir,
                env={**os.environ, _PATH: str(path)},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
            if not path.exists():
                end = (done.stdout + done.stderr).strip().splitlines()[-1:]
                self.lines = [
                    f"The run without sharing has failed: {' '.join(end) or f'exit status {done.returncode}'}"
                ]
            else:
                self.lines = _compare(self.found, json.loads(path.read_text()))
        if self.lines:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _arguments(self) -> list[str]:
        given = [*map(str, self.config.invocation_params.args), "--no-testdb-share"]
        seed = getattr(self.config.option, "randomly_seed", None)
        return [*given, f"--randomly-seed={seed}"] if isinstance(seed, int) else given

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print the tests that differ."""
        if not self.lines:
            terminalreporter.write_line(
                f"testdb_app: {len(self.found)} tests have the same outcomes without sharing", green=True
            )
            return
        terminalreporter.write_sep("=", "outcomes that differ without sharing", red=True)
        for line in self.lines:
            terminalreporter.write_line(line, red=True)


def _warning_options() -> list[str]:
    return [f"-W{each}" for each in sys.warnoptions]


def _compare(shared: _Outcomes, plain: _Outcomes) -> list[str]:
    """Return a line for each test whose outcomes differ."""
    return [
        f"{test}: {_described(shared, test)} with sharing, {_described(plain, test)} without"
        for test in sorted({*shared, *plain})
        if shared.get(test) != plain.get(test)
    ]


def _described(outcomes: _Outcomes, test: str) -> str:
    return ", ".join(outcomes[test]) or "nothing" if test in outcomes else "not run"


def register(config: pytest.Config) -> None:
    """Compare the outcomes, or write them if this is the run to compare with. A worker of pytest-xdist does nothing."""
    if not options.is_worker(config):
        path = os.environ.get(_PATH)
        config.pluginmanager.register(ShareVerification(config) if path is None else Outcomes(Path(path)))
