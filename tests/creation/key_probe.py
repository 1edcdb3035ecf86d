"""A process that reads keys of a project: one line of JSON for each request, one for its answer.

Django is imported once; each request is answered by a fork that sets the project up as it is then. Requests have

- ``do``: ``build`` migrates a database in memory and returns the manifest, ``read`` takes one as ``manifest``;
- ``environment``, ``folder`` (the working directory), ``server`` (parts that a store has read), ``migrate`` (TEST["MIGRATE"]),
  ``no_migrations`` (as pytest-django's option), ``code`` (run after the set-up).
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from typing import Any

import django
from django.conf import settings
from django.db import connections

from testdb_app.creation import key, trace
from testdb_app.exceptions import ConfigurationError


class NoMigrations:
    """What pytest-django puts in place of ``settings.MIGRATION_MODULES``: it cannot be listed."""

    def __contains__(self, item: str) -> bool:
        return True

    def __getitem__(self, item: str) -> None:
        return None


def answer(request: dict[str, Any]) -> dict[str, Any]:
    os.environ.update(request.get("environment", {}))
    os.chdir(request.get("folder", os.curdir))
    django.setup()
    if request.get("no_migrations"):
        settings.MIGRATION_MODULES = NoMigrations()
    exec(request.get("code", ""), {})
    connection = connections[request.get("alias", "default")]
    connection.settings_dict["TEST"]["MIGRATE"] = request.get("migrate", True)
    found: dict[str, Any] = {"root": str(key.project_root())}
    before = time.process_time(), time.perf_counter()
    static = key.read_static_key(connection, request.get("server", {}))
    if request["do"] == "build":
        with trace.Trace() as seen:
            connection.creation.create_test_db(verbosity=0, autoclobber=True, serialize=False)
        manifest = seen.manifest()
        found |= {"note": seen.note, "outside": seen.outside}
    else:
        manifest = key.Manifest.from_dict(request.get("manifest", {}))
    used = key.read_used_parts(manifest)
    if request["do"] == "read":
        found["ms"] = [(time.process_time() - before[0]) * 1000, (time.perf_counter() - before[1]) * 1000]
    else:
        used = seen.mark_changed(used)
    return {
        **found,
        "static": dict(static.parts),
        "manifest": manifest.as_dict(),
        "used": used,
        "digest": key.full_digest(static, used),
        "connected": connection.connection is not None,
    }


def main() -> None:
    for line in sys.stdin:
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            continue
        try:
            found = answer(json.loads(line))
        except ConfigurationError as error:
            found = {"refused": str(error)}
        except BaseException:
            found = {"error": traceback.format_exc()}
        os.write(1, (json.dumps(found) + "\n").encode())
        os._exit(0)


if __name__ == "__main__":
    main()
