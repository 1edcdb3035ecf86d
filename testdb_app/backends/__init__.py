"""One folder per vendor; :func:`get_backend` finds it. A vendor without one gets Django's own flush."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from testdb_app.backends.base import BaseBackend

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

_FOLDERS = {"postgresql": "postgresql", "sqlite": "sqlite"}


def get_backend(connection: BaseDatabaseWrapper) -> BaseBackend:
    """Return the backend for the connection's vendor."""
    return backend_of(connection.vendor)


@cache
def backend_of(vendor: str) -> BaseBackend:
    """Return the backend for *vendor*, by Django's name."""
    backend: BaseBackend = import_module(f"testdb_app.backends.{_FOLDERS.get(vendor, 'generic')}").BACKEND
    return backend
