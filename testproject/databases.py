"""Which database the test project runs on.

===================================  ==================================================================
``TESTPROJECT_DATABASE=sqlite``      the file ``testproject.sqlite3`` beside ``manage.py``
``DATABASE_URL=postgres://…``        a server of yours
neither                              the embedded PostgreSQL (see :mod:`testproject.embedded`)
===================================  ==================================================================
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import dj_database_url
from django.core.exceptions import ImproperlyConfigured

from testproject.embedded import DATABASE, ROLE, NoPostgresError, shared_server

DATABASE_VARIABLE = "TESTPROJECT_DATABASE"
URL_VARIABLE = "DATABASE_URL"

_ROOT = Path(__file__).resolve().parents[1]


def configured_databases() -> dict[str, Any]:
    """Return ``DATABASES``. It connects to nothing and starts nothing.

    :raises ImproperlyConfigured: ``TESTPROJECT_DATABASE`` is neither ``postgresql`` nor ``sqlite``.
    :raises PostgresChoiceError: ``TESTPROJECT_POSTGRES`` names what is not there.
    """
    choice = os.environ.get(DATABASE_VARIABLE) or "postgresql"
    if choice not in {"postgresql", "sqlite"}:
        raise ImproperlyConfigured(
            f"{DATABASE_VARIABLE} is {choice!r}. Set it to postgresql or sqlite, or unset it for postgresql."
        )
    if choice == "sqlite":
        return {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": _ROOT / "testproject.sqlite3"}}
    if url := os.environ.get(URL_VARIABLE):
        return {"default": dj_database_url.parse(url)}
    if sys.argv[1:2] == ["makemigrations"]:
        # It compares models with files. Its one look at a database, for the history, would start a server.
        return {}
    return {"default": _embedded()}


def postgresql_is_missing() -> bool:
    """Say whether PostgreSQL is wanted, and neither a URL nor an installation is there."""
    if os.environ.get(DATABASE_VARIABLE) == "sqlite" or os.environ.get(URL_VARIABLE):
        return False
    try:
        shared_server()
    except NoPostgresError:
        return True
    return False


def _embedded() -> dict[str, Any]:
    # Without an installation the first connection says what to do; --help and check go on.
    host = "" if postgresql_is_missing() else shared_server().host
    return {
        "ENGINE": "testproject.embedded",
        "HOST": host,
        "PORT": "5432",
        "USER": ROLE,
        "NAME": DATABASE,
    }
