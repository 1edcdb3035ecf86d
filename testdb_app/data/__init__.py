"""Set up rows, take them away again, and verify what is in a database: with a session of tests, or alone.

- :class:`DataLedger` remembers what was set up and takes away that, and only that;
- :func:`load`, :func:`bulk`, :func:`make` and the registry :data:`seeds` make rows, :class:`Values` the same values each time;
- :func:`snapshot` and :func:`diff` tell what has changed, and the assertions what is not as it should be.
"""

from testdb_app.data.assertions import (
    assert_clean,
    assert_constraints,
    assert_row_counts,
    assert_rows,
    assert_sequences_ahead,
    assert_unchanged,
)
from testdb_app.data.factories import Values, make
from testdb_app.data.ledger import DataLedger
from testdb_app.data.loading import bulk, load
from testdb_app.data.seeds import SeedRegistry, seeds
from testdb_app.data.snapshots import Snapshot, diff, snapshot
from testdb_app.diff import LateSequence, RowDifference, SequenceDifference, StateDifference, TableDifference, Violation

__all__ = [
    "DataLedger",
    "LateSequence",
    "RowDifference",
    "SeedRegistry",
    "SequenceDifference",
    "Snapshot",
    "StateDifference",
    "TableDifference",
    "Values",
    "Violation",
    "assert_clean",
    "assert_constraints",
    "assert_row_counts",
    "assert_rows",
    "assert_sequences_ahead",
    "assert_unchanged",
    "bulk",
    "diff",
    "load",
    "make",
    "seeds",
    "snapshot",
]
