"""Assertions about rows, counts, constraints and sequences; each raises :class:`~testdb_app.exceptions.VerificationError`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from django.db import DEFAULT_DB_ALIAS, connections
from django.db.models import Model

from testdb_app.backends import get_backend
from testdb_app.conf import get_settings
from testdb_app.data.model_index import find_table, read_index, read_schema_of
from testdb_app.data.snapshots import Snapshot, with_labels
from testdb_app.diff import SequenceDifference, cut, show_value
from testdb_app.exceptions import DataError, VerificationError
from testdb_app.resetter import check_shape, read_state
from testdb_app.selection import Scope, make_scope, select_tables

if TYPE_CHECKING:
    from testdb_app.backends.base import DatabaseState
    from testdb_app.baseline_state import Baseline, SequenceState
    from testdb_app.model_tables import ModelIndex
    from testdb_app.schema import QualifiedName, Schema

_READ_TIMEOUT = 60.0


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
    """Fail if a table does not have the rows of the baseline, or has any rows if there is no baseline.

    Tables that a reset leaves alone are not compared: ``django_migrations``, tables of *exclude*, of
    ``TESTDB["EXCLUDE"]`` and of extensions, and those that the baseline was captured without. With *sequences* on,
    sequences must be in the baseline's state, too. Costs reading the state as before a reset, and a comparison of the
    tables of the baseline.

    Raises :class:`~testdb_app.exceptions.BaselineError` for a baseline of another schema.
    """
    connection = connections[using]
    backend = get_backend(connection)
    index = read_index(connection)
    baseline = backend.read_baseline(connection)
    if baseline is not None:
        check_shape(connection, index.schema, baseline)
    scope = _scope(index, baseline, (exclude,) if isinstance(exclude, str) else tuple(exclude))
    observation = read_state(connection, lock_timeout=_READ_TIMEOUT)
    kept = baseline.tables.keys() if baseline is not None else frozenset()
    tables = sorted((observation.sizes.keys() | kept) & scope.tables)
    found = with_labels(connection, backend.data.compare_with_baseline(connection, baseline, tables, limit))
    moved = list(_displaced(index.schema, scope, observation, baseline)) if sequences else []
    if found or moved:
        state = "in its baseline's state" if baseline is not None else "empty"
        lines = "\n".join([*([str(found)] if found else []), *map(str, moved)])
        fail("assert_clean", f'database "{using}" is not {state}', [*found.tables, *moved], lines)


def assert_constraints(using: str = DEFAULT_DB_ALIAS, *, limit: int = 20) -> None:
    """Fail if rows break a constraint, also one that is checked only at the end of the open transaction.

    A query checks every foreign key, so it also finds rows that bypassed the server's check. ``failures`` are
    :class:`~testdb_app.diff.Violation` values, with table, key and value, at most *limit* values of each. Deferred
    constraints are deferred again afterwards. On databases other than PostgreSQL and SQLite it checks what Django
    checks.
    """
    __tracebackhide__ = True
    connection = connections[using]
    found = get_backend(connection).data.find_violations(connection, read_schema_of(connection), limit)
    if found:
        fail(
            "assert_constraints",
            f'rows of database "{using}" break constraints',
            found,
            "\n".join(cut(map(str, found))),
        )


def assert_sequences_ahead(using: str = DEFAULT_DB_ALIAS) -> None:
    """Fail if a sequence would give a value that its column already has, or has passed: the next insert could collide.

    Sequences that count down must be below the least value. ``failures`` are :class:`~testdb_app.diff.LateSequence`
    values. SQLite's own sequences are always ahead.
    """
    __tracebackhide__ = True
    connection = connections[using]
    found = get_backend(connection).data.find_late_sequences(connection, read_schema_of(connection))
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
    schema: Schema, scope: Scope, observation: DatabaseState, baseline: Baseline | None
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


def assert_row_counts(expected: Mapping[type[Model] | str, int], *, using: str = DEFAULT_DB_ALIAS) -> None:
    """Fail if a table has another number of rows than *expected*: by model, by label ("shop.Book") or table ("public.book").

    ``failures`` has a triple for each wrong count: the name, the present number, the expected number. One query for
    all on most databases. A model's count is that of its table; a partitioned table counts the rows of its
    partitions.
    """
    __tracebackhide__ = True
    connection = connections[using]
    index = read_index(connection)
    tables = {what: _find(index, what, using) for what in expected}
    parts = {table: _with_partitions(index.schema, table) for table in tables.values()}
    counted = get_backend(connection).count_rows(connection, sorted({each for all_ in parts.values() for each in all_}))
    counts = {what: sum(counted[each] for each in parts[table]) for what, table in tables.items()}
    wrong = [(_name(what), counts[what], number) for what, number in expected.items() if counts[what] != number]
    if wrong:
        lines = (f"{name}: {found} rows, not {number}" for name, found, number in wrong)
        fail(
            "assert_row_counts",
            f'row counts in database "{using}" are not as expected',
            wrong,
            "\n".join(cut(lines)),
        )


def assert_rows(
    model: type[Model],
    expected: Iterable[Mapping[str, Any]],
    *,
    using: str = DEFAULT_DB_ALIAS,
    ordered: bool = False,
) -> None:
    """Fail unless the rows of *model* are exactly the *expected* ones, compared by the fields that these name.

    Each dict names the same fields, as ``values()`` accepts them (``author__name``). With *ordered* the order counts:
    that of the model's Meta, or of the keys. ``failures`` has the missing rows ("-") and the surplus rows ("+").
    """
    __tracebackhide__ = True
    wanted = [dict(row) for row in expected]
    names = list(wanted[0]) if wanted else [str(model._meta.pk.attname)]
    if any(row.keys() != set(names) for row in wanted):
        raise DataError(
            f"All rows given to assert_rows() must name the same fields as the first one: {', '.join(names)}."
        )
    rows = model._default_manager.using(using)
    found = [dict(row) for row in (rows.all() if rows.all().ordered else rows.order_by("pk")).values(*names)]
    missing, extra = _subtract(names, wanted, found), _subtract(names, found, wanted)
    label = model._meta.label
    if missing or extra:
        lines = [*(f"- {_show(row)}" for row in missing), *(f"+ {_show(row)}" for row in extra)]
        failures = [*(("-", row) for row in missing), *(("+", row) for row in extra)]
        what = f"rows of {label} are not as expected: {len(missing)} missing (-), {len(extra)} too many (+)"
        fail("assert_rows", what, failures, "\n".join(cut(iter(lines))))
    if ordered and found != wanted:
        place = next(number for number, (here, there) in enumerate(zip(found, wanted, strict=True)) if here != there)
        lines = [f"- {_show(wanted[place])}", f"+ {_show(found[place])}"]
        fail("assert_rows", f"rows of {label} are in another order, from row {place + 1} on", [place], "\n".join(lines))


def _find(index: ModelIndex, what: type[Model] | str, using: str) -> QualifiedName:
    if not isinstance(what, str):
        return find_table(index, what, using)
    tables = select_tables(index.schema, index.labels_by_table, [what])
    roots = [table for table in tables if not set(index.schema.by_name[table].inherits) & tables]
    if len(roots) != 1:
        raise DataError(
            f'"{what}" names {len(roots)} tables. Name one: a model, "app_label.ModelName" or "schema.table".'
        )
    return roots[0]


def _with_partitions(schema: Schema, table: QualifiedName) -> list[QualifiedName]:
    found, work = [], [table]
    while work:
        each = work.pop()
        found.append(each)
        work.extend(schema.partitions.get(each, ()))
    return [each for each in found if schema.by_name[each].stores_rows]


def _name(what: type[Model] | str) -> str:
    return what if isinstance(what, str) else what._meta.label


def _subtract(
    names: Sequence[str], rows: Iterable[dict[str, Any]], others: Iterable[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the *rows* that are not among *others*. Each of the others matches one row only."""
    left = []
    try:
        counts = Counter(tuple(row[name] for name in names) for row in others)
        for row in rows:
            values = tuple(row[name] for name in names)
            if counts[values] > 0:
                counts[values] -= 1
            else:
                left.append(row)
    except TypeError:
        # A value that cannot be hashed, such as the dict of a JSONField: compare each with each.
        remaining = list(others)
        left = [row for row in rows if not _remove(remaining, row)]
    return left


def _remove(rows: list[dict[str, Any]], row: dict[str, Any]) -> bool:
    if row in rows:
        rows.remove(row)
        return True
    return False


def _show(row: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={show_value(value)}" for name, value in row.items())


def fail(check: str, what: str, failures: Iterable[Any], lines: str) -> NoReturn:
    """Raise the error of the assertion *check*: *what* is wrong, and below it the *lines* that show it.

    pytest hides the frames of this package, so the failure points at the line of the test.
    """
    __tracebackhide__ = True
    raise VerificationError(f"{what}:\n{lines}", check=check, failures=list(failures))
