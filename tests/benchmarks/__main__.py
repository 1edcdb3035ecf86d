"""The package beside the floor and its rivals: ``python -m tests.benchmarks``.

Prints a table for each case and one of the targets at the end, and asserts nothing about time. That everybody really put
back what was written is asserted in every round, outside of the time.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import django

if TYPE_CHECKING:
    from tests.benchmarks.cases_tables import Bench
    from tests.benchmarks.results import Case, Run


ON_REQUEST = {"life", "life-10000", "endurance"}
"""What is measured only by its name: what is long, and what the others measure."""


def groups() -> dict[str, Callable[[Bench], Iterator[Case]]]:
    """Return what can be chosen; each measures one case or several."""
    from tests.benchmarks import (
        cases_baseline,
        cases_data,
        cases_durability,
        cases_elsewhere,
        cases_life,
        cases_long,
        cases_network,
        cases_plugin,
        cases_sessions,
        cases_tables,
        cases_templates,
        cases_testcases,
    )

    sizes = {f"tables-{n}": partial(cases_tables.run_tables, tables=n) for n in (100, 300, 1_000, 10_000)}
    return {
        **sizes,
        **{f"life-{n}": partial(cases_life.run_size, tables=n) for n in cases_life.SIZES},
        "life": cases_life.run_life,
        "nothing": cases_tables.run_nothing,
        "baseline": cases_baseline.run_baseline,
        "endurance": cases_long.run_endurance,
        "fresh": cases_long.run_fresh,
        "left-tables": cases_long.run_left_tables,
        "network": cases_network.run_network,
        "durability": cases_durability.run_durability,
        "sqlite": cases_elsewhere.run_sqlite,
        "disk": cases_elsewhere.run_disk,
        "testcases": cases_testcases.run_testcases,
        "plugin": cases_plugin.run_plugin,
        "sharing": cases_plugin.run_sharing,
        "templates": cases_templates.run_templates,
        "templates-migrations": cases_templates.run_migrations,
        "templates-workers": cases_templates.run_workers,
        "templates-key": cases_templates.run_key,
        "templates-disk": cases_templates.run_template_disk,
        "templates-kept": cases_templates.run_kept,
        "sessions": cases_sessions.run_sessions,
        "data": cases_data.run_data,
        "testcases-netbox": cases_testcases.run_testcases_of_netbox,
    }


def parse(arguments: Sequence[str] | None, names: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument(
        "--rounds", type=int, default=200, metavar="N", help="resets of each candidate in each case (200)"
    )
    parser.add_argument(
        "--only",
        action="extend",
        nargs="+",
        choices=names,
        metavar="CASE",
        help=f"{', '.join(names)} (without it: all but {', '.join(sorted(ON_REQUEST))})",
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the run as an SVG")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every single time")
    parser.add_argument(
        "--from", type=Path, metavar="FILE", dest="kept", help="measure nothing: print and draw what --json kept"
    )
    parser.add_argument(
        "--disk",
        type=Path,
        metavar="FOLDER",
        default=Path(tempfile.gettempdir()),
        help="where to make the server on a disk (the folder of temporary files)",
    )
    options = parser.parse_args(arguments)
    options.only = options.only or [name for name in names if name not in ON_REQUEST]
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    return options


def main(arguments: Sequence[str] | None = None) -> Run:
    """Do it, and return the run."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "testproject.settings")
    django.setup()
    from tests.benchmarks.plot import draw
    from tests.benchmarks.printing import case_text, targets_text
    from tests.benchmarks.results import Run

    measured = groups()
    options = parse(arguments, list(measured))
    if options.kept:
        run = Run.load(options.kept)
        print(run.about, *map(case_text, run.cases), sep="\n\n", end="\n\n")
    else:
        run = _measure(options, {name: measured[name] for name in options.only})
    print(targets_text(run.cases))
    if options.json:
        run.save(options.json)
    if options.plot:
        options.plot.write_text(draw(run))
    return run


def _measure(options: argparse.Namespace, chosen: dict[str, Callable[[Bench], Iterator[Case]]]) -> Run:
    from tests.benchmarks.cases_tables import Bench
    from tests.benchmarks.databases import Databases
    from tests.benchmarks.printing import case_text
    from tests.benchmarks.results import Run

    started = time.perf_counter()
    about = describe()
    print(f"{about}; {options.rounds} rounds\n")
    cases: list[Case] = []
    with Databases() as databases:
        bench = Bench(rounds=options.rounds, databases=databases, disk=options.disk)
        for measure in chosen.values():
            for case in measure(bench):
                cases.append(case)
                print(case_text(case), end="\n\n", flush=True)
    print(f"Measured in {time.perf_counter() - started:.0f} s\n")
    return Run(about=about, cases=tuple(cases))


def describe() -> str:
    """Say what is measured on: versions, where the server's data are, processors."""
    import psycopg
    from django.db import connections

    from tests.benchmarks.disk import filesystem
    from tests.scratch import connect_as_superuser

    connections["default"].ensure_connection()
    with connect_as_superuser("postgres") as connection:
        settings = dict(
            connection.execute(
                "SELECT name, setting FROM pg_settings WHERE name IN ('server_version', 'fsync', 'data_directory')"
            ).fetchall()
        )
    connections["default"].close()
    place = filesystem(Path(settings.get("data_directory", "/")))
    return (
        f"PostgreSQL {settings['server_version']}, fsync={settings['fsync']}, data on {place or 'an unknown file system'}; "
        f"Django {django.__version__}, psycopg {psycopg.__version__}, Python {platform.python_version()}, "
        f"{os.cpu_count()} processors"
    )


if __name__ == "__main__":
    main()
