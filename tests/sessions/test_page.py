"""The pages on sessions tell every option, method, fixture and error; its code runs with that of all pages."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from testdb_app import exceptions
from testdb_app.exceptions import TestSessionError
from testdb_app.plugin.requests import SESSIONS
from testdb_app.sessions import TestSession, TestSessionFactory

REFERENCE = Path(__file__).resolve().parents[2] / "docs/reference"
PAGES = "\n".join((REFERENCE / name).read_text("utf-8") for name in ("sessions.md", "session-threads.md"))


def test_the_pages_tell_every_option_method_fixture_and_error() -> None:
    options = set(inspect.signature(TestSessionFactory.__init__).parameters) - {"self"}
    methods = {name for name, _ in inspect.getmembers(TestSession) if not name.startswith("_")}
    own = methods - {"is_open", "connection"}
    errors = {
        name for name, each in vars(exceptions).items() if isinstance(each, type) and issubclass(each, TestSessionError)
    }
    errors -= {"ScopeError", "LeakError"}  # of the scopes of pytest
    words = {*options, *own, *errors, *SESSIONS}
    assert {word for word in words if not re.search(rf"\b{word}\b", PAGES)} == set()
