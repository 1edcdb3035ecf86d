"""Moved to :mod:`testdb_app.backends.base`. This path works until the first release."""

from testdb_app.backends.base import BaseBackend, ChangeTracker

Backend = BaseBackend
Watch = ChangeTracker

__all__ = ["Backend", "Watch"]
