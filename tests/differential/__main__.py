"""Many examples, and a summary: ``python -m tests.differential --examples 20000 --seed 1``.

``TESTPROJECT_POSTGRES`` chooses the server. What fails is made small and printed after the summary.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import django


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the options of a command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.differential", description=__doc__)
    parser.add_argument("--examples", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument(
        "--without", action="append", default=[], metavar="TEXT", help="leave out steps that contain TEXT"
    )
    parser.add_argument("--play", type=Path, metavar="FILE", help="play the scenario that FILE holds, and no other")
    parser.add_argument("--pool", action="store_true", help="take the own connection from Django's pool")
    return parser.parse_args(arguments)


def main() -> int:
    """Do it; return 1 if anything failed."""
    options = parse(sys.argv[1:])
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "testproject.settings")
    django.setup()
    from tests.differential.running import batches, make_test, theatre
    from tests.differential.scenario import Scenario

    with theatre(tuple(options.without), pooled=options.pool) as stage:
        if options.play:
            stage.try_out(Scenario.from_sql(options.play.read_text()))
        else:
            print(f"PostgreSQL {stage.version}, {options.examples} examples, seed {options.seed}", flush=True)
            for examples, number in batches(options.examples, options.seed):
                make_test(stage, examples, number)()
                print(
                    f"{next(stage.tally.lines())}, {sum(f.times for f in stage.failures.values())} failed", flush=True
                )
        print("\n".join(stage.tally.lines()), flush=True)
        for explanation in stage.explain():
            print(explanation, flush=True)
        return int(bool(stage.failures))


if __name__ == "__main__":
    sys.exit(main())
