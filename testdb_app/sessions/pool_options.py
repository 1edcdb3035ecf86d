"""The options of a pool, checked before anything hangs, against what Django's ``OPTIONS["pool"]`` and psycopg_pool accept."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from testdb_app.exceptions import ConfigurationError, UnsupportedError

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

# What Django gives to the pool itself.
_DJANGOS = {"self", "conninfo", "kwargs", "open", "configure", "check"}


def check_pool_options(pool: Mapping[str, Any] | bool | None) -> Mapping[str, Any] | None:
    """Return the options of a pool as Django's ``OPTIONS["pool"]`` takes them, or None for no pool.

    Raises :class:`ConfigurationError` for what would raise later, hang, or be no pool.
    """
    if pool is None or pool is False:
        return None
    options = {} if pool is True else pool
    if not isinstance(options, Mapping):
        raise ConfigurationError(f"pool must be a dict of psycopg_pool's options, True, or None, not {pool!r}.")
    if not options and pool is not True:
        raise ConfigurationError(
            "pool={} is no pool to Django, which takes it for None. Pass True for a pool as psycopg_pool makes it, or name "
            'an option: pool={"min_size": 1, "max_size": 4}.'
        )
    known = _known_options()
    unknown = sorted(set(options) - known)
    if unknown:
        why = " (Django sets that itself)" if unknown[0] in _DJANGOS else ""
        raise ConfigurationError(
            f"pool has an option {unknown[0]!r} that cannot be given{why}. There are: {', '.join(sorted(known))}."
        )
    _check_sizes(options)
    return dict(options)


def _known_options() -> set[str]:
    try:
        from psycopg_pool import ConnectionPool  # noqa: PLC0415 - it is optional
    except ImportError as error:
        raise ConfigurationError('pool needs psycopg_pool: pip install "psycopg[pool]".') from error
    return set(inspect.signature(ConnectionPool.__init__).parameters) - _DJANGOS


def _check_sizes(options: Mapping[str, Any]) -> None:
    least, most = options.get("min_size", 4), options.get("max_size")
    if not _is_number(least) or least < 0 or not (most is None or _is_number(most)):
        raise ConfigurationError(f"pool: min_size and max_size must be numbers from 0 on, not {least!r} and {most!r}.")
    if (least if most is None else most) < max(1, least):
        raise ConfigurationError(
            f"pool: max_size must be at least 1 and at least min_size, which is {least} (4, if it is not given); it is {most}."
        )
    timeout = options.get("timeout", 30.0)
    if not isinstance(timeout, int | float) or isinstance(timeout, bool) or timeout <= 0:
        raise ConfigurationError(f"pool: timeout must be a number of seconds above 0, not {timeout!r}.")
    if not _is_number(options.get("num_workers", 3)) or options.get("num_workers", 3) < 1:
        raise ConfigurationError("pool: num_workers must be at least 1: without one nobody connects, and all wait.")


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def check_may_pool(connection: BaseDatabaseWrapper) -> None:
    """Raise an error if a pool over the settings of *connection* would hang, or not be one."""
    options = connection.settings_dict["OPTIONS"]
    if connection.vendor != "postgresql":
        raise UnsupportedError(
            f'pool: the database "{connection.alias}" ({connection.display_name}) has no pools in Django. Leave pool out.'
        )
    if connection.settings_dict.get("CONN_MAX_AGE", 0) != 0:
        raise ConfigurationError(
            f'pool: DATABASES["{connection.alias}"] has CONN_MAX_AGE {connection.settings_dict["CONN_MAX_AGE"]}, and Django '
            "pools no persistent connections. Set it to 0 in the settings of the tests."
        )
    if options.get("assume_role"):
        raise ConfigurationError(
            f'pool: DATABASES["{connection.alias}"] has the option assume_role. Django sets that role by a connection '
            "which a pool does not have yet, so that no connection of the pool succeeds, and every use waits until the pool's "
            "timeout. Leave one of the two out."
        )
