"""Assertions about what is in the database; each raises :class:`~testdb_app.exceptions.VerificationError`, an AssertionError."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from django.db import DEFAULT_DB_ALIAS, connections

from testdb_app.backends import get_backend
from testdb_app.conf import get_settings
from testdb_app.data.failing import fail
from testdb_app.data.maps import read_index, read_map
from testdb_app.data.snapshots import Snapshot, with_labels
from testdb_app.diff import SequenceDifference, cut
from testdb_app.resetter import check_shape, observe
from testdb_app.selection import Scope, make_scope, select_tables

if TYPE_CHECKING:
    from testdb_app.backends.base import Observation
    from testdb_app.baseline_state import Baseline, SequenceState
    from testdb_app.model_tables import ModelIndex
    from testdb_app.schema import Schema

_LOOK_TIMEOUT = 60.0


def assert_unchanged(before: Snapshot, *, limit: int = 20) -> None:
    """Fail if a row was added, changed or removed since the snapshot *before*; ``failures`` are the tables' differences.

    Parameters and errors as for :func:`testdb_app.data.diff`.
    """
    __tracebackhide__ = True
    found = before.diff(limit=limit)
    if found:
        fail("assert_unchanged", f'database "{before.using}" has changed since the snapshot', found.tables, str(found))


def assert_clean(
    using: str = DEFAULT_DB_ALIAS,
    *,
    exclude: str | Iterable[str] = (),
    sequences: bool = False,
    limit: int = 20,
) -> None:
    """Fail if a table does not have the rows of the baseline, or, in a database without one, has any.

    What a reset leaves alone is not looked at: ``django_migrations``, tables of *exclude*, of ``TESTDB["EXCLUDE"]`` and of
    extensions, and those that the baseline was captured without. With *sequences* on, sequences have to be where they were, too.
    Costs what a look before a reset does, and a comparison of the tables of the baseline.

    Raises :class:`~testdb_app.exceptions.BaselineError` for a baseline of another schema.
    """
    connection = connections[using]
    backend = get_backend(connection)
    index = read_index(connection)
    baseline = backend.read_baseline(connection)
    if baseline is not None:
        check_shape(connection, index.schema, baseline)
    scope = _scope(index, baseline, (exclude,) if isinstance(exclude, str) else tuple(exclude))
    observation = observe(connection, lock_timeout=_LOOK_TIMEOUT)
    kept = baseline.tables.keys() if baseline is not None else frozenset()
    tables = sorted((observation.sizes.keys() | kept) & scope.tables)
    found = with_labels(connection, backend.data.compare_with_baseline(connection, baseline, tables, limit))
    moved = list(_displaced(index.schema, scope, observation, baseline)) if sequences else []
    if found or moved:
        state = "in its baseline's state" if baseline is not None else "empty"
        lines = "\n".join([*([str(found)] if found else []), *map(str, moved)])
        fail("assert_clean", f'database "{using}" is not {state}', [*found.tables, *moved], lines)


def assert_constraints(using: str = DEFAULT_DB_ALIAS, *, limit: int = 20) -> None:
    """Fail if rows break a constraint: also one that would be checked only at the end of the transaction that is open.

    Every foreign key is looked at by a query, so that rows are found that came past its check; ``failures`` are
    :class:`~testdb_app.diff.Violation` values, with table, key and value, *limit* values of each at most. Constraints
    that waited wait again afterwards. On databases other than PostgreSQL and SQLite it is what Django finds.
    """
    __tracebackhide__ = True
    connection = connections[using]
    found = get_backend(connection).data.find_violations(connection, read_map(connection), limit)
    if found:
        fail(
            "assert_constraints",
            f'rows of database "{using}" break constraints',
            found,
            "\n".join(cut(map(str, found))),
        )


def assert_sequences_ahead(using: str = DEFAULT_DB_ALIAS) -> None:
    """Fail if a sequence would give a value that its column has already, or has passed: the next insert could collide.

    Sequences that count down have to be below the least value. ``failures`` are
    :class:`~testdb_app.diff.LateSequence` values. SQLite's own always are ahead.
    """
    __tracebackhide__ = True
    connection = connections[using]
    found = get_backend(connection).data.find_late_sequences(connection, read_map(connection))
    if found:
        fail(
            "assert_sequences_ahead",
            f'sequences of database "{using}" are behind',
            found,
            "\n".join(cut(map(str, found))),
        )


def _scope(index: ModelIndex, baseline: Baseline | None, exclude: Sequence[str]) -> Scope:
    schema = index.schema
    patterns = [*exclude, *get_settings().exclude]
    return make_scope(
        schema,
        included=None,
        excluded=select_tables(schema, index.labels_by_table, patterns),
        uncaptured=baseline.excluded if baseline is not None else frozenset(),
        reset_sequences=True,
    )


def _displaced(
    schema: Schema, scope: Scope, observation: Observation, baseline: Baseline | None
) -> Iterator[SequenceDifference]:
    wanted = baseline.sequences if baseline is not None else {}
    for name in sorted(scope.sequences):
        expected, found = wanted.get(name), observation.states.get(name)
        is_there = name in observation.states
        if is_there != (name in wanted) or found != expected:
            start = f"its start, {schema.sequences_by_name[name].start}"
            yield SequenceDifference(
                sequence=name,
                expected=_place(expected) if name in wanted else start,
                found=_place(found) if is_there else start,
            )


def _place(state: SequenceState | None) -> str:
    if state is None:
        return "an unknown value"
    return f"{state.last_value}" if state.is_called else f"{state.last_value}, not used yet"
