"""The errors that the page quotes are made on a real server; SQL in the pages runs on one of its own."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import psycopg
import pytest

from testproject.embedded import SUPERUSER
from tests.benchmarks.disk import own_server
from tests.documentation.conftest import Examples
from tests.documentation.pages import DOCS, blocks, every_block

PAGE = DOCS / "how-to/troubleshooting.md"
SYMPTOMS = Path(__file__).with_name("symptoms.py")
SCOPE_SYMPTOMS = Path(__file__).with_name("scope_symptoms.py")

pytestmark = pytest.mark.postgresql


def test_the_errors_that_the_page_quotes_are_the_servers(examples: Examples) -> None:
    shutil.copy(SYMPTOMS, examples.directory / "test_symptoms.py")
    examples.pytest("-q", "test_symptoms.py")
    for name in ("test_scope_symptoms.py", "scope_symptoms.py"):
        shutil.copy(SCOPE_SYMPTOMS, examples.directory / name)
    examples.pytest("-q", "--testdb-leaks=warn", "-W", "default", "-p", "scope_symptoms", "test_scope_symptoms.py")
    found = dict(map(json.loads, (examples.directory / "symptoms.jsonl").read_text().splitlines()))
    quoted = [block.text.strip() for block in blocks(PAGE, "text")]
    assert len(found) == len(quoted) >= 12
    for words, error in found.items():
        (quote,) = [text for text in quoted if words in text]
        assert re.match(re.escape(quote).replace("…", ".*"), error), f"{error}\n\n{quote}"


def test_the_sql_of_the_pages_runs(tmp_path_factory: pytest.TempPathFactory) -> None:
    memory = Path("/dev/shm")
    folder = memory if memory.is_dir() else tmp_path_factory.getbasetemp()
    with own_server(folder, fsync="off") as host:
        # The role comes first, in whatever page it is made.
        statements = sorted((block.text for block in every_block("sql")), key=lambda text: "CREATE ROLE" not in text)
        assert len(statements) >= 4
        with psycopg.connect(host=host, user=SUPERUSER, dbname="postgres", autocommit=True) as session:
            for statement in statements:
                for part in statement.split(";\n"):
                    session.execute(part)
