"""Moved to :mod:`testdb_app.schema`. This path works until the first release."""

from testdb_app.schema import Column, TableDetails, UniqueKey

__all__ = ["Column", "TableDetails", "UniqueKey"]
