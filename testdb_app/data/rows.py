"""Assertions about the rows of tables: how many, and which."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from django.db import DEFAULT_DB_ALIAS, connections
from django.db.models import Model

from testdb_app.backends import get_backend
from testdb_app.data.failing import fail
from testdb_app.data.maps import find_table, read_index
from testdb_app.diff import cut, show_value
from testdb_app.exceptions import DataError
from testdb_app.selection import select_tables

if TYPE_CHECKING:
    from testdb_app.model_tables import ModelIndex
    from testdb_app.schema import QualifiedName, Schema


def assert_row_counts(expected: Mapping[type[Model] | str, int], *, using: str = DEFAULT_DB_ALIAS) -> None:
    """Fail if a table has another number of rows than *expected*: by model, by label ("shop.Book") or by table ("public.book").

    ``failures`` has a triple for each that is wrong: what, how many there are, how many were expected. One query for all on most
    databases. A model's count is that of its table; those of partitions are in that of the partitioned table.
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
            f'row counts in database "{using}" are other than expected',
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
    """Fail unless the rows of *model* are just the *expected* ones, compared by the fields that these name.

    Each dict names the same fields, as ``values()`` takes them (``author__name``). The order counts if *ordered* is on: it is
    that of the model's Meta, or of the keys. ``failures`` has the rows that are missing ("-") and those that are too many ("+").
    """
    __tracebackhide__ = True
    wanted = [dict(row) for row in expected]
    names = list(wanted[0]) if wanted else [str(model._meta.pk.attname)]
    if any(row.keys() != set(names) for row in wanted):
        raise DataError(
            f"All rows that assert_rows() is given have to name the same fields, as the first: {', '.join(names)}."
        )
    rows = model._default_manager.using(using)
    found = [dict(row) for row in (rows.all() if rows.all().ordered else rows.order_by("pk")).values(*names)]
    missing, extra = _subtract(names, wanted, found), _subtract(names, found, wanted)
    label = model._meta.label
    if missing or extra:
        lines = [*(f"- {_show(row)}" for row in missing), *(f"+ {_show(row)}" for row in extra)]
        failures = [*(("-", row) for row in missing), *(("+", row) for row in extra)]
        what = f"rows of {label} are other than expected: {len(missing)} missing (-), {len(extra)} too many (+)"
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
    """Return the *rows* that are not among *others*, each of which stands for one row only."""
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
        # A value that cannot be hashed, such as the dict of a JSONField: each is compared with each.
        remaining = list(others)
        left = [row for row in rows if not _take(remaining, row)]
    return left


def _take(rows: list[dict[str, Any]], row: dict[str, Any]) -> bool:
    if row in rows:
        rows.remove(row)
        return True
    return False


def _show(row: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={show_value(value)}" for name, value in row.items())
