"""Read the schema of a database in a process of its own, and print what it cost: ``python -m tests.benchmarks.reading NAME``."""

from __future__ import annotations

import json
import os
import resource
import sys
import time

import django
from django.db import connections


def peak() -> float:
    """Return the most memory that this process has had, in MB."""
    unit = 1024 * 1024 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def main() -> None:
    """Print the figures as JSON."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "testproject.settings")
    django.setup()
    from testdb_app.backends import get_backend
    from testdb_app.graph import DependencyGraph

    connections.settings["default"]["NAME"] = sys.argv[1]
    connection = connections["default"]
    backend = get_backend(connection)
    backend.identify(connection)
    before = peak()
    marks = [time.perf_counter()]
    schema = backend.read_schema(connection)
    marks.append(time.perf_counter())
    read = peak()
    graph = DependencyGraph.from_schema(schema)
    groups = graph.deletion_groups()
    marks.append(time.perf_counter())
    print(
        json.dumps(
            {
                "tables": len(schema.tables),
                "keys": len(schema.foreign_keys),
                "groups": len(groups),
                "read_seconds": marks[1] - marks[0],
                "order_seconds": marks[2] - marks[1],
                "read_megabytes": read - before,
                "all_megabytes": peak() - before,
            }
        )
    )


if __name__ == "__main__":
    main()
