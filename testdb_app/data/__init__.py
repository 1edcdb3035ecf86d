"""Set up rows, delete them again, and verify what is in a database: in a test session, or without one.

- :class:`DataLedger` records what was set up, and deletes that and nothing else.
- :func:`load`, :func:`bulk`, :func:`make` and the registry :data:`seeds` make rows; :class:`Values` are the same each
  time.
- :func:`snapshot` and :func:`diff` show what has changed; the assertions show what is not as it should be.
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
