"""Moved to :mod:`testdb_app.backends.base`. This path works until the first release."""

from testdb_app.backends.base import BaseDataBackend, StoredState

DataBackend = BaseDataBackend

__all__ = ["DataBackend", "StoredState"]
