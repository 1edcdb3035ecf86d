"""What tells, without a look at rows, that tables are as they were at an earlier moment; for snapshots.

The signals are those of :mod:`testdb_app.backends.postgresql.signals`: each write moves the sum of a table's counters, also
inside a transaction that is still open, whoever else is connected has been idle all the while, and the catalogs have not
been written to. Three things are different from a reset, because a snapshot may be taken in the middle of a transaction:

- a rollback takes rows back, and no counter tells. So a table that has counts which this session has not reported yet, be they
  of this transaction or of one before, is compared by its rows. The same goes for all tables if the catalogs have such counts: a
  TRUNCATE sets the counts of its own transaction to 0, and in a table that was truncated before it leaves no other sign;
- in a transaction of repeatable read or serializable, others may have committed what it does not see. Nothing is trusted then;
- the counters that were read once in a transaction are kept to its end, unless pg_stat_clear_snapshot() is called.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from testdb_app.backends.base import OWN_SCHEMA, Mark
from testdb_app.backends.postgresql import signals
from testdb_app.backends.postgresql.differing import Columns
from testdb_app.backends.postgresql.looks import Conditions, are_trusted, parse_numbers
from testdb_app.backends.postgresql.quoting import qualify, quote_literal
from testdb_app.backends.postgresql.shapes import PLAIN_SPELLING, TABLE_SHAPES, TableShape, is_baseline_table
from testdb_app.schema import QualifiedName
from testdb_app.selection import ALWAYS_KEPT

CLEAR = "SELECT pg_catalog.pg_stat_clear_snapshot()"
"""Makes the next look in the same transaction a new one."""

# oid, schema, name, whether row security hides rows from this role
TABLES = """
SELECT c.oid::bigint, n.nspname::text, c.relname::text,
       c.relrowsecurity AND pg_catalog.row_security_active(c.oid)
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                    WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid
                      AND d.refclassid = 'pg_catalog.pg_extension'::regclass AND d.deptype = 'e')
 ORDER BY n.nspname, c.relname
"""

_CATALOGS = ", ".join(f"'pg_catalog.{name}'::pg_catalog.regclass" for name in signals.SCHEMA_CATALOGS)
_VERBS = ("inserted", "updated", "deleted")


@dataclass(frozen=True, slots=True, kw_only=True)
class Relations:
    """The tables of a database by OID, with their columns; ``hidden`` are those of which this role sees some rows only.

    ``usual`` are those that a snapshot of everything is about; ``look`` is the query of a look at all of them.
    """

    tables: Mapping[int, QualifiedName]
    columns: Mapping[QualifiedName, Columns]
    hidden: frozenset[QualifiedName]
    usual: tuple[int, ...]
    look: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Signs:
    """One look: whether it can be trusted at all, what must not change, and by OID the writes, and which are unreported."""

    is_trusted: bool
    conditions: Conditions
    catalogs: int
    has_pending_catalogs: bool
    writes: Mapping[int, int]
    pending: frozenset[int]

    def is_comparable(self, later: Signs) -> bool:
        """Whether the counters tell what was written between this look and a *later* one."""
        return (
            self.is_trusted
            and later.is_trusted
            and self.conditions == later.conditions
            and self.catalogs == later.catalogs
            and not self.has_pending_catalogs
        )

    def is_same(self, later: Signs, oid: int) -> bool:
        """Whether that table has the rows it had, where the two looks are comparable."""
        return oid not in self.pending and self.writes.get(oid) == later.writes.get(oid)


def look(oids: Iterable[int]) -> str:
    """Write the query of a look at those tables, for :func:`parse_signs`. All its columns are texts."""
    tables, catalogs = "'{" + ",".join(map(str, oids)) + "}'::oid[]", f"ARRAY[{_CATALOGS}]::oid[]"
    arrays = ", ".join(f"{_reported(source)}, {_pending(source)}" for source in (tables, catalogs))
    return qualify(
        f"SELECT c.*, ARRAY({signals.OTHERS}), pg_catalog.current_setting('transaction_isolation'), {arrays} "
        f"FROM ({signals.CONDITIONS}) c"
    )


def _reported(source: str) -> str:
    counts = " + ".join(f"pg_catalog.pg_stat_get_tuples_{verb}(o)" for verb in _VERBS)
    return f"ARRAY(SELECT {counts} FROM pg_catalog.unnest({source}) o)::text"


def _pending(source: str) -> str:
    """Write the array of those that have counts which are not reported yet, each followed by its count."""
    counts = " + ".join(f"pg_catalog.pg_stat_get_xact_tuples_{verb}(o)" for verb in _VERBS)
    found = f"SELECT o, {counts} AS number FROM pg_catalog.unnest({source}) o OFFSET 0"
    return (
        f"ARRAY(SELECT v FROM ({found}) p, LATERAL (VALUES (p.o::bigint), (p.number)) l (v) WHERE p.number <> 0)::text"
    )


def parse_signs(oids: Sequence[int], row: Sequence[str | None]) -> Signs:
    """Make the signs of the row of :func:`look`."""
    epoch, sessions, _, _, others, isolation, *arrays = row
    # No such text has a comma, a quote or a brace in it.
    listed = (others or "{}")[1:-1]
    number = None if sessions is None else int(sessions)
    conditions = (epoch or "", number, tuple(listed.split(",")) if listed else ())
    reported, pending, catalogs, pending_catalogs = (array or "{}" for array in arrays)
    writes = dict(zip(oids, parse_numbers(reported), strict=True))
    numbers = iter(parse_numbers(pending))
    unreported = dict(zip(numbers, numbers, strict=True))
    for oid, count in unreported.items():
        writes[oid] += count
    return Signs(
        is_trusted=are_trusted(conditions) and isolation == "read committed",
        conditions=conditions,
        catalogs=_sum_up(catalogs, pending_catalogs),
        has_pending_catalogs=pending_catalogs != "{}",
        writes=writes,
        pending=frozenset(unreported),
    )


def _sum_up(catalogs: str, pending: str) -> int:
    """Return the writes to all catalogs: none of their counters goes down, so that the sum tells as much as each."""
    return sum(parse_numbers(catalogs)) + sum(parse_numbers(pending)[1::2])


def shapes_of(tables: Iterable[QualifiedName]) -> list[str]:
    """Write the queries that tell the columns and keys of *tables*, the settings that they need first."""
    names = ", ".join(f"({quote_literal(name.schema)}, {quote_literal(name.name)})" for name in tables)
    return [PLAIN_SPELLING, TABLE_SHAPES.format(names=names)]


def parse_relations(rows: Iterable[Sequence[Any]], shapes: Iterable[Sequence[Any]]) -> Relations:
    """Make the relations of the rows of :data:`TABLES`, and of those of :func:`shapes_of`."""
    tables = {oid: QualifiedName(schema, name) for oid, schema, name, _ in rows}
    columns = {}
    for shape in map(TableShape.from_row, shapes):
        columns[shape.name] = Columns(
            names=tuple(column.name for column in shape.columns),
            key=shape.key,
            operators=shape.operators,
            text=shape.text,
        )
    tables = {oid: name for oid, name in tables.items() if name in columns}
    return Relations(
        tables=tables,
        usual=tuple(oid for oid, name in tables.items() if not _is_left_out(name)),
        look=look(tables),
        columns=columns,
        hidden=frozenset(tables[oid] for oid, *_, is_hidden in rows if is_hidden),
    )


def _is_left_out(name: QualifiedName) -> bool:
    """Whether a table is left out unless it is named: Django's list of migrations, and what this package keeps itself."""
    is_own = name.schema == OWN_SCHEMA and (name.name in set(Mark) or is_baseline_table(name.name))
    return is_own or name.name in ALWAYS_KEPT
