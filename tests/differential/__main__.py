"""Many examples, and a summary: ``python -m tests.differential --examples 20000 --seed 1``.

``TESTPROJECT_POSTGRES`` chooses the server. A batch that fails prints its smallest scenario, and the others go on.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback

import django


def main() -> int:
    """Do it; return how many batches failed, at most 100."""
    parser = argparse.ArgumentParser(prog="python -m tests.differential", description=__doc__)
    parser.add_argument("--examples", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--stop", action="store_true", help="end with the first batch that fails")
    options = parser.parse_args()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "testproject.settings")
    django.setup()
    from tests.differential.running import batches, make_test, theatre

    failed = 0
    with theatre() as stage:
        print(f"PostgreSQL {stage.version}, {options.examples} examples, seed {options.seed}", flush=True)
        for examples, number in batches(options.examples, options.seed):
            try:
                make_test(stage, examples, number)()
            except Exception:
                failed += 1
                print(f"--- The batch of seed {number} failed", flush=True)
                traceback.print_exc(limit=4, file=sys.stdout)
                if options.stop:
                    break
            sys.stdout.flush()
        print("\n".join(stage.tally.lines()))
    return min(failed, 100)


if __name__ == "__main__":
    sys.exit(main())
