"""What Django's flush leaves: no rows but those that handlers of ``post_migrate`` make. Made once, and kept beside the baseline.

A flush has the handlers make their rows again after each test, which for content types and permissions of 200 models takes a
tenth of a second. Here they run after the first test, and what is there then is captured, as a second state that resets
go back to. They run again, and it is captured again, when anything has changed that the rows may depend on: the schema,
the models, the handlers, the settings that a class overrides. So the rows are those that a flush would leave, with keys that
do not drift. A handler that does more than write rows of its database does not do it after every test.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary, ref

from django.apps import apps
from django.conf import settings
from django.core.management.sql import emit_post_migrate_signal
from django.db.models.signals import post_migrate

from testdb_app.baseline import capture_baseline
from testdb_app.caches import recall_content_types, remember_content_types
from testdb_app.exceptions import BaselineError, UnsupportedError
from testdb_app.preparing import get_resetter
from testdb_app.resetter import Resetter
from testdb_app.states import FLUSHED

logger = logging.getLogger("testdb_app")

# What the handlers of Django's own apps read of the settings.
_READ_BY_DJANGO = ("DATABASE_ROUTERS", "SITE_ID")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """What the kept rows depend on, and the content types that the handlers left in the cache: a test may count queries."""

    circumstances: tuple[object, ...]
    content_types: dict[str, Any]


# By the resetter that goes back to the rows, with which it is forgotten.
_kept: WeakKeyDictionary[Resetter, _Kept] = WeakKeyDictionary()


def flush(using: str, *, inhibit_post_migrate: bool = False) -> None:
    """Leave in the test database of the alias *using* what Django's flush would.

    Parameters: *inhibit_post_migrate*, whether that is no rows at all, as after a test with ``available_apps``.
    Raises what :meth:`~testdb_app.resetter.Resetter.reset` raises.
    """
    if inhibit_post_migrate:
        get_resetter(using, "empty").reset()
        return
    resetter, now = get_resetter(using, FLUSHED), _circumstances()
    kept = _kept.pop(resetter, None)
    if kept is not None and kept.circumstances == now:
        try:
            resetter.reset()
        except BaselineError as error:
            # Django's flush minds no table that came or went.
            logger.info("%s: what a flush leaves is made again: %s", using, error)
        else:
            _kept[resetter] = kept
            recall_content_types(kept.content_types)
            return
    get_resetter(using, "empty").reset()
    emit_post_migrate_signal(verbosity=0, interactive=False, db=using)
    content_types = remember_content_types()
    try:
        capture_baseline(using, replace=True, state=FLUSHED)
    except UnsupportedError as error:
        logger.info("%s: what a flush leaves is made each time: %s", using, error)
    else:
        _kept[resetter] = _Kept(circumstances=now, content_types=content_types)


def _circumstances() -> tuple[object, ...]:
    entries: list[Any] = post_migrate.receivers
    receivers = (entry[1] for entry in entries)
    handlers = [receiver() if isinstance(receiver, ref) else receiver for receiver in receivers]
    are_djangos = all(getattr(handler, "__module__", "django.").startswith("django.") for handler in handlers)
    return (
        tuple(entry[0] for entry in entries),
        tuple(apps.app_configs),
        tuple(apps.get_models(include_auto_created=True)),
        [getattr(settings, name, None) for name in _READ_BY_DJANGO],
        {} if are_djangos else _overridden_settings(),
    )


def _overridden_settings() -> dict[str, Any]:
    """Return what ``override_settings`` has changed, but for what every live server changes."""
    found: dict[str, Any] = {}
    layer: Any = settings._wrapped  # type: ignore[misc]
    while hasattr(layer, "default_settings"):
        found = {**vars(layer), **found}
        layer = layer.default_settings
    return {name: value for name, value in found.items() if name.isupper() and name != "ALLOWED_HOSTS"}
