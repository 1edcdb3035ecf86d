"""The files that a hosting site reads are what their schemas say, and what the pages in the root name is there."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import yaml

from tests.documentation.pages import ROOT

SCHEMAS = {
    ".github/workflows/*.yml": "github-workflows",
    ".github/dependabot.yml": "dependabot",
    ".github/ISSUE_TEMPLATE/config.yml": "github-issue-config",
    ".github/ISSUE_TEMPLATE/[!c]*.yml": "github-issue-forms",
    ".readthedocs.yaml": "readthedocs",
}
PAGES = ["CONTRIBUTING.md", "CODE_OF_CONDUCT.md", "AGENTS.md"]


@pytest.mark.parametrize("pattern", SCHEMAS)
def test_the_files_are_valid(pattern: str) -> None:
    files = sorted(map(str, ROOT.glob(pattern)))
    assert files
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{SCHEMAS[pattern]}", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES)
def test_links_and_paths_of_a_page_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    named = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text) + re.findall(r"`((?:tests|docs|\.ci)/[\w./]+)`", text)
    named += re.findall(r"^ *(?:sh|bash) ([\w./]+)", text, re.MULTILINE)
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_hooks_before_a_commit_are_commands_of_the_gate() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    gate = (ROOT / ".ci/steps.sh").read_text()
    modules = [hook["entry"].split()[2] for hook in hooks]
    assert modules == ["ruff", "ruff", "mypy", "codespell_lib"]
    assert [module for module in modules if f"-m {module}" not in gate] == []


def test_the_matrix_has_what_the_package_claims() -> None:
    matrix = yaml.safe_load((ROOT / ".github/workflows/matrix.yml").read_text())["jobs"]["tests"]["strategy"]["matrix"]
    project = (ROOT / "pyproject.toml").read_text()
    assert matrix["django"] == re.findall(r"Framework :: Django :: ([\d.]+)", project)
    assert matrix["python"] == re.findall(r"Programming Language :: Python :: (3\.\d+)", project)
