"""Moved to :mod:`testdb_app.selection`. This path works until the first release."""

from testdb_app.selection import Scope

__all__ = ["Scope"]
