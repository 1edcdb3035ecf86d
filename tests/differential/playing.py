"""Playing a scenario, and comparing what is there after each reset with what must be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from django.test import override_settings

from testdb_app.backends import get_backend
from testdb_app.baseline import capture_baseline
from testdb_app.conf import get_settings
from testdb_app.data import assert_constraints
from testdb_app.exceptions import (
    BaselineDamagedError,
    BaselineError,
    ConcurrencyError,
    LockTimeoutError,
    RestoreConflictError,
    VerificationError,
)
from testdb_app.report import ResetReport
from testdb_app.resetter import Resetter
from tests.differential.image import Image, emptied
from tests.differential.scenario import Reset, Scenario, Step
from tests.differential.stage import Stage
from tests.differential.tally import Tally
from tests.testcases.kept import differences, observe_new, read_state

_OPTIONS = {"empty": {"to": "empty"}, "delete": {"to": "baseline", "strategy": "delete"}}


class _OverError(Exception):
    """A reset was rightly refused: nothing can be compared from there on."""


def play(scenario: Scenario, stage: Stage, tally: Tally) -> None:
    """Play *scenario* on *stage*, which it leaves clean. Raises AssertionError where a reset was not exact."""
    tally.count("examples", "")
    try:
        run = _Run(stage, tally)
        with suppress(_OverError):
            for step in scenario.steps:
                run.take(step)
    finally:
        stage.clean()


class _Run:
    def __init__(self, stage: Stage, tally: Tally) -> None:
        self._stage = stage
        self._tally = tally
        self._resetters: dict[str, Resetter] = {}
        self._baseline: Image | None = None
        # What lay where after the last reset, if it was looked at.
        self._last: Image | None = None
        self._is_changed = False
        # Who writes as a replica may break foreign keys, and the next baseline then breaks them.
        self._may_break_keys = self._breaks_keys = False
        # To read a sequence counts as a call of it, and the next reset may set it where it is.
        self._has_read_sequences = False

    def take(self, step: Step) -> None:
        if step.actor != "setup":
            self._stage.end_setup()
        if step.actor == "capture":
            self._capture(again="again" in step.words)
        elif step.actor != "reset":
            done = self._stage.play(step, self._tally)
            if {"left", "behind"} <= step.words:
                self._is_changed = done
            if {"taken", "away"} <= step.words and self._is_changed and not done:
                self._tally.count("left behind for good", "")
                raise _OverError
            self._may_break_keys |= {"as", "replica"} <= step.words
        elif (reset := Reset.from_step(step)).refused and self._is_changed:
            self._reset_refused(reset)
        else:
            self._reset(reset)

    def _capture(self, *, again: bool) -> None:
        database = self._stage.database
        self._tally.count("captures", "again" if again else "first")
        before = self._stage.look(by_own=False) if again else None
        capture_baseline(database.alias, replace=again, allow_database=database.name, lock_timeout=3)
        if self._may_break_keys:
            self._breaks_keys = not _keys_hold(database.alias)
        self._baseline = self._last = self._stage.look(by_own=False)
        if before is not None:
            changed = before.differences(self._baseline)
            assert not changed, f"The capture changed something:\n{changed}"

    def _resetter(self, reset: Reset) -> Resetter:
        options = _OPTIONS.get(reset.resetter, {"to": "baseline"})
        if reset.resetter == "new":
            return self._stage.database.resetter(lock_timeout=3, **options)
        return self._resetters.setdefault(reset.resetter, self._stage.database.resetter(lock_timeout=3, **options))

    def _reset_refused(self, reset: Reset) -> None:
        before = self._stage.look(by_own=False)
        try:
            report = self._resetter(reset).reset()
        except BaselineError as error:
            assert not isinstance(error, BaselineDamagedError), error
            assert error.changes, f"It names nothing that has changed: {error}"
            self._tally.count("resets refused", reset.resetter)
        else:
            assert reset.perhaps, f"A reset into another schema was not refused: {report}"
            assert self._baseline is not None
            wrong = self._baseline.differences(self._stage.look(by_own=False))
            assert not wrong, f"After the reset: {wrong}\n{report!r}"
            self._tally.count("resets into a schema with other types", reset.resetter)
            self._last = None
            return
        after = self._stage.look(by_own=False)
        changed = before.differences(after)
        assert not changed, f"The refused reset changed something:\n{changed}"
        assert (before.places, before.switches) == (after.places, after.switches)

    def _reset(self, reset: Reset) -> None:
        by_own = reset.sight == "seen-by-own"
        before = self._stage.look(by_own=reset.sight != "seen-by-visitor", sequences=False) if reset.watched else None
        resetter = self._resetter(reset)
        # What another session called before a full scan, it may report after it, and the next reset sets that sequence again.
        is_late = self._stage.take_late()
        with self._session_between_tests(reset):
            report = self._run(resetter) if reset.mix != "rivals" else self._run_beside_rivals(resetter, reset)
        self._stage.own_is_used()
        self._count(reset, report)
        last, self._last = self._last, None
        between = None
        if reset.again:
            between = self._stage.look(by_own=by_own, sequences=not by_own) if reset.sight != "unseen" else None
            second = resetter.reset()
            # What only truncation empties is truncated, and filled again, at each full scan.
            changed = [table for table in second.tables if table.rows is not None]
            assert not changed, f"A second reset changed rows: {changed}"
            has_read = self._has_read_sequences or (between is not None and not by_own)
            assert has_read or is_late or not second.sequences, f"A second reset changed sequences: {second.sequences}"
        if reset.sight == "unseen":
            return
        after = self._stage.look(by_own=by_own)
        self._has_read_sequences |= by_own
        expected = emptied(after) if reset.resetter == "empty" else self._baseline
        assert expected is not None
        wrong = expected.differences(after)
        assert not wrong, f"After the reset: {wrong}\n{report!r}"
        fills = any(table.rows is None for table in report.tables)
        if between is not None and not fills:
            assert between.places == after.places, "A second reset moved rows."
            assert between.files in ({}, after.files), "A second reset moved a sequence."
        # Rivals reset the same database, and may truncate what has to be truncated together.
        if before is not None and not fills and reset.mix != "rivals":
            self._check_untouched(expected, last, before, after, report)
        self._last = after

    @contextmanager
    def _session_between_tests(self, reset: Reset) -> Iterator[None]:
        """Renew or close the own session around the reset, and compare what the next test would get with a new one."""
        connection = self._stage.database.connection
        if reset.keeps == "untouched":
            yield
            return
        with override_settings(TESTDB={"KEEP_CONNECTIONS": reset.keeps}):
            backend, before = get_backend(connection), connection.connection
            keep = backend.renew_session(connection, mode=get_settings().keep_connections)
            yield
            backend.release_session(connection, keep=keep)
        is_kept = before is not None and connection.connection is before
        self._tally.count("own sessions", f"{reset.keeps}: {'kept' if is_kept else 'closed'}")
        assert not (is_kept and reset.keeps == "never")
        if is_kept and reset.keeps == "auto":
            wrong = differences(read_state(connection), observe_new(connection.alias))
            assert not wrong, f"A kept session differs from a new one: {wrong}"

    def _run(self, resetter: Resetter) -> ResetReport:
        """Reset; a baseline that breaks keys may be refused, and then nothing must have changed."""
        if not self._breaks_keys:
            return resetter.reset()
        before = self._stage.look(by_own=False, sequences=False)
        try:
            return resetter.reset()
        except RestoreConflictError:
            changed = before.differences(self._stage.look(by_own=False, sequences=False))
            assert not changed, f"The refused reset changed something:\n{changed}"
            self._tally.count("resets refused", "rows of the baseline break a key")
            raise _OverError from None

    def _run_beside_rivals(self, resetter: Resetter, reset: Reset) -> ResetReport:
        """Reset while others do; each may give up with an error that names the reason, and the one after them all is exact."""
        errors: list[str | None] = []
        target = _OPTIONS.get(reset.resetter, {"to": "baseline"})["to"]
        self._stage.rivals.begin(self._stage.database.name, {"to": target})
        try:
            resetter.reset()
        except (ConcurrencyError, LockTimeoutError, RestoreConflictError) as error:
            errors.append(f"{type(error).__name__}: {error}")
        finally:
            errors += self._stage.rivals.finish()
        for error in filter(None, errors):
            name = error.partition(":")[0]
            self._tally.count("given up beside other resets", name)
            allowed = {"ConcurrencyError", "LockTimeoutError"} | (
                {"RestoreConflictError"} if self._breaks_keys else set()
            )
            assert name in allowed, f"A reset beside others raised {error}"
        return self._run(resetter)

    def _check_untouched(
        self, expected: Image, last: Image | None, before: Image, after: Image, report: ResetReport
    ) -> None:
        assert before.switches == after.switches, _changed(before.switches, after.switches)
        if last is None:
            return
        kept = [
            name
            for name, places in before.places.items()
            if places == last.places.get(name) and before.rows[name] == expected.rows[name]
        ]
        self._tally.count("tables compared", "not written", len(kept))
        self._tally.count("tables compared", "written", len(before.places) - len(kept))
        if report.attempts > 1:
            # What could not be put back row by row is put in anew, with all that refers to it.
            self._tally.count("put in anew", "")
            return
        moved = [name for name in kept if after.places[name] != before.places[name]]
        assert not moved, f"Not written, and yet touched by the reset: {moved}\n{report!r}"

    def _count(self, reset: Reset, report: ResetReport) -> None:
        self._tally.count("resets by", reset.resetter)
        self._tally.count("rounds by mix of sessions", reset.mix)
        self._tally.count("resets seen", f"{reset.sight}{' watched' if reset.watched else ''}")
        self._tally.count("attempts", str(report.attempts))
        self._tally.count(
            "resets that changed", "rows" if report.tables else "sequences" if report.sequences else "nothing"
        )


def _keys_hold(alias: str) -> bool:
    try:
        assert_constraints(alias)
    except VerificationError:
        return False
    return True


def _changed(before: dict[str, str] | object, after: dict[str, str] | object) -> str:
    assert isinstance(before, dict)
    assert isinstance(after, dict)
    return f"Switched: {sorted(before.items() ^ after.items())}"
