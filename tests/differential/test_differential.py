"""Random schemas, random baselines, random writes by several sessions, resets: afterwards everything is as it was.

``TESTDB_EXAMPLES`` is how many scenarios are played (150 by default, within half a minute), ``TESTDB_SEED`` what they are
drawn from (always the same ones by default, so that whoever changes something else is not stopped by what is found here). ``python -m tests.differential --examples 20000 --seed 1`` does the same without pytest, and prints what
occurred how often. What fails is made small and printed as SQL with headers; :mod:`tests.differential.scenario` says what
they mean, ``python -m tests.differential --play FILE`` plays it again, and ``test_regressions`` is the place to keep it.
"""

from __future__ import annotations

import os

import pytest

from tests.differential.running import batches, make_test, theatre

pytestmark = pytest.mark.postgresql

FEW = 150
SEED = 1


def test_every_reset_brings_back_every_row_and_sequence_and_touches_nothing_else(django_db_blocker):
    examples = int(os.environ.get("TESTDB_EXAMPLES", FEW))
    start = int(os.environ.get("TESTDB_SEED", SEED))
    with django_db_blocker.unblock(), theatre() as stage:
        for size, number in batches(examples, start):
            make_test(stage, size, number)()
        summary = "\n".join(stage.tally.lines())
        found = "\n".join(stage.explain())
    if examples > FEW:
        print(summary)
    assert not found, f"Seed {start}, {examples} examples:\n{found}"
