"""A driver other than psycopg 3, told by its connection: an error that says what to install."""

from types import SimpleNamespace
from typing import Any

import pytest

from testdb_app.backends.postgresql.connection import is_idle
from testdb_app.exceptions import UnsupportedError


def test_a_connection_of_another_driver_is_refused() -> None:
    django: Any = SimpleNamespace(connection=SimpleNamespace(closed=0))
    with pytest.raises(UnsupportedError, match="needs psycopg 3"):
        is_idle(django)


def test_no_connection_is_not_taken_for_another_driver() -> None:
    django: Any = SimpleNamespace(connection=None)
    with pytest.raises(AttributeError):
        is_idle(django)
