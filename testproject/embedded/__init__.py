"""An embedded PostgreSQL for the test project and the tests: nothing to install, nothing left running.

``binaries`` finds the programs, ``folders`` says where a server lives, ``server`` is what its users hold,
``supervisor`` and ``cluster`` run it, and ``engine`` is the database engine for Django's settings.
"""

from testproject.embedded.errors import EmbeddedPostgresError, NoPostgresError, PostgresChoiceError
from testproject.embedded.server import Server, shared_server, superuser_dsn

__all__ = [
    "EmbeddedPostgresError",
    "NoPostgresError",
    "PostgresChoiceError",
    "Server",
    "shared_server",
    "superuser_dsn",
]
