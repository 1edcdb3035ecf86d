"""Which tables are truncated rather than deleted from: those that grew large, and those whose deletion is slow to check.

TRUNCATE takes all tables that reference the truncated ones along, empty or not; CASCADE would do the same silently.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from testdb_app.exceptions import ResetError
from testdb_app.schema import QualifiedName, Schema

_BYTES_A_PAGE = 8192
_BYTES_A_ROW = 80
# Pages read for rows deleted: 1.4 to 1.6 microseconds each, measured, so about 20 ms; a truncation of some tables costs as much.
_SLOW_CHECKS = 12_500


def choose_truncations(
    schema: Schema,
    scope: frozenset[QualifiedName],
    written: frozenset[QualifiedName],
    sizes: Mapping[QualifiedName, int],
    strategy: str,
    truncate_above: int,
) -> frozenset[QualifiedName]:
    """Return the tables to truncate, closed under references, of those in *scope* that were *written*.

    Parameters: *sizes*, bytes of the written tables; *strategy*, "delete", "truncate" or "auto"; *truncate_above*, bytes a
    table. Raises :class:`ResetError` if truncation was asked for and a table that stays references one that goes.
    """
    if strategy == "delete" or schema.vendor != "postgresql":
        return frozenset()
    if strategy == "truncate":
        closure = _truncation_closure(schema, written)
        _check_closure(schema, scope, closure)
        return closure
    chosen: set[QualifiedName] = set()
    for name in sorted(written):
        is_large = sizes.get(name, 0) > truncate_above
        is_slow = _is_slow_to_check(schema, name, sizes)
        if name in chosen or not (is_large or is_slow):
            continue
        closure = _truncation_closure(schema, {name})
        size = sum(sizes.get(member, 0) for member in closure)
        if closure <= scope and (is_slow or size > truncate_above * len(closure)):
            chosen |= closure
    return frozenset(chosen)


def _is_slow_to_check(schema: Schema, name: QualifiedName, sizes: Mapping[QualifiedName, int]) -> bool:
    """Whether the checks of foreign keys would make a DELETE of the table slow.

    For each row that goes PostgreSQL looks for rows that refer to it. Where no index leads to them it reads the whole
    referencing table, whose rows are dead by then, but still there.
    """
    rows = sizes.get(name, 0) / _BYTES_A_ROW
    pages = sum(sizes.get(key.table, 0) / _BYTES_A_PAGE for key in schema.referencing.get(name, ()) if not key.indexed)
    return rows * pages > _SLOW_CHECKS


def _truncation_closure(schema: Schema, names: Iterable[QualifiedName]) -> frozenset[QualifiedName]:
    """Return what one TRUNCATE of *names* must name: all that reference them, and the partitions of those."""
    found = set(names)
    work = list(found)
    while work:
        name = work.pop()
        following = [key.table for key in schema.referencing.get(name, ())]
        following += schema.partitions.get(name, ())
        for other in following:
            if other not in found:
                found.add(other)
                work.append(other)
    return frozenset(found)


def _check_closure(schema: Schema, scope: frozenset[QualifiedName], closure: frozenset[QualifiedName]) -> None:
    for name in sorted(closure - scope):
        keys = [key for key in schema.foreign_keys if key.table == name and key.referenced in closure]
        path = f" by {keys[0]}" if keys else ""
        raise ResetError(
            f"TRUNCATE cannot empty the tables in scope without {name}, which stays and references them{path}. Nothing was "
            "changed. Use the strategy delete or auto, or reset that table too."
        )
