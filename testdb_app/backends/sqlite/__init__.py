"""SQLite, 3.31 and later."""

from testdb_app.backends.sqlite.backend import BACKEND

__all__ = ["BACKEND"]
