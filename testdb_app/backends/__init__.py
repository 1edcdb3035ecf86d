"""One folder per vendor; :func:`get_backend` finds it. A vendor without one gets Django's own flush."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

from testdb_app.backends.protocols import Backend

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

_FOLDERS = {"postgresql": "postgresql", "sqlite": "sqlite"}


def get_backend(connection: BaseDatabaseWrapper) -> Backend:
    """Return the backend for the connection's vendor."""
    folder = _FOLDERS.get(connection.vendor, "generic")
    module = import_module(f"testdb_app.backends.{folder}")
    return cast("Backend", module.BACKEND)
