"""The files for CI providers are what their schemas say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.documentation.pages import DOCS

SCHEMAS = {
    "azure-pipelines.yml": "azure-pipelines",
    "bitbucket-pipelines.yml": "bitbucket-pipelines",
    "circleci.yml": "circle-ci",
    "compose.yml": "compose-spec",
    "github-actions.yml": "github-workflows",
    "github-actions-shards.yml": "github-workflows",
    "gitlab-ci.yml": "gitlab-ci",
    "gitlab-ci-shards.yml": "gitlab-ci",
}
FILES = sorted((DOCS / "how-to/ci-files").glob("*.yml"))


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
def test_the_file_is_valid_for_its_provider(file: Path) -> None:
    # Python's regular expressions: the other ones refuse a pattern in the schema of Azure.
    command = [sys.executable, "-m", "check_jsonschema", "--regex-variant", "python"]
    done = subprocess.run(
        [*command, "--builtin-schema", f"vendor.{SCHEMAS[file.name]}", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_file_is_in_the_page() -> None:
    page = (DOCS / "how-to/ci.md").read_text()
    assert {file.name for file in FILES if f"{{literalinclude}} ci-files/{file.name}" not in page} == set()
    assert {file.name for file in FILES} == set(SCHEMAS)
