"""``python -m testproject.embedded``: start the embedded server and say which it is, or what to do.

A script calls it first, so that a missing PostgreSQL is one message and not one for every test. With ``--folders`` it starts
nothing and lists the folders that servers have left.
"""

from __future__ import annotations

import sys

from testproject.embedded import EmbeddedPostgresError, NoPostgresError, kept_folders, shared_server

NOTHING_FOUND = 3
"""The exit status if there is no PostgreSQL; one that is there and does not work gives 1."""


def main() -> int:
    """Do it, and return the exit status."""
    if sys.argv[1:] == ["--folders"]:
        print(*kept_folders(), sep="\n")
        return 0
    try:
        server = shared_server()
        server.ensure_running()
    except NoPostgresError as error:
        print(error, file=sys.stderr)
        return NOTHING_FOUND
    except EmbeddedPostgresError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"PostgreSQL {server.installation.major} from {server.installation.bin}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
