"""The database engine for Django's settings: its PostgreSQL backend with a server that starts by itself.

Importing settings, ``--help``, ``check`` and the like need no server and start none.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from django.db.backends.postgresql import base, client

from testproject.embedded import shared_server

if TYPE_CHECKING:
    from collections.abc import Iterable


class DatabaseClient(client.DatabaseClient):
    """``manage.py dbshell``, with the ``psql`` that belongs to the server."""

    @classmethod
    def settings_to_cmd_args_env(
        cls, settings_dict: dict[str, Any], parameters: Iterable[str]
    ) -> tuple[list[str], dict[str, str] | None]:
        """Return the command line, with the full path of the program where it is there."""
        (name, *arguments), environment = super().settings_to_cmd_args_env(settings_dict, parameters)
        program = shared_server().installation.program(name)
        return [str(program) if program.exists() else name, *arguments], environment

    def runshell(self, parameters: Iterable[str]) -> None:
        """Run ``psql``; the server runs as long as it does."""
        shared_server().ensure_running()
        super().runshell(parameters)


class DatabaseWrapper(base.DatabaseWrapper):
    """A connection to the embedded server."""

    client_class = DatabaseClient

    def get_connection_params(self) -> dict[str, Any]:
        """Return the parameters, for connections past this class too, as to build a template; the server runs from then on."""
        _start()
        return super().get_connection_params()

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """Connect, after starting the server if need be; also if it was killed since."""
        server = shared_server()
        started = server.ensure_running()
        try:
            return super().get_new_connection(conn_params)
        except self.Database.OperationalError:
            if started or not server.ensure_running():
                raise
            return super().get_new_connection(conn_params)


@functools.cache  # the parameters are read for each reset, and a look at the server takes half a millisecond
def _start() -> None:
    shared_server().ensure_running()
