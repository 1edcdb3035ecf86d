"""The picture of a real run is what the commands print now, in a terminal."""

from __future__ import annotations

import uuid
from runpy import run_path
from typing import Any

import pytest
from django.db import connections
from psycopg import sql

from tests.documentation.conftest import url_of
from tests.documentation.pages import DOCS
from tests.scratch import connect
from tests.terminals import skip_without_terminals

SCRIPT = DOCS / "pictures/record.py"


@pytest.mark.postgresql
def test_the_picture_is_what_the_commands_print(django_db_blocker: Any) -> None:
    skip_without_terminals()
    script, name = run_path(str(SCRIPT)), f"pictured_{uuid.uuid4().hex[:10]}"
    with django_db_blocker.unblock():
        connections["default"].ensure_connection()
    with connect("postgres") as session:
        session.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            printed = script["words"](script["record"](url_of(name), name))
        finally:
            session.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
            connections["default"].close()
    assert "testdb_demo_loan" in printed
    assert script["words_of"](SCRIPT.with_name("resetdb.svg").read_text("utf-8")) == printed
