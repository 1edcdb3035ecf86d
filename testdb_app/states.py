"""Moved to :mod:`testdb_app.baseline_state`. This path works until the first release."""

from testdb_app.baseline_state import Baseline, BaselineTable, SequenceState

__all__ = ["Baseline", "BaselineTable", "SequenceState"]
