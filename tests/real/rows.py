"""Rows for any schema: values of the right types, foreign keys that refer to rows that are there, cycles closed.

Written by a superuser whose session skips triggers and foreign keys (``session_replication_role = replica``), so that
the order of the tables and keys that are not null in a cycle are no trouble. At the end every key holds: rows that
would violate one are taken out again.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from tests.real.values import Column, as_text, make_value

_TABLES = """
SELECT c.oid, n.nspname, c.relname
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
 ORDER BY 2, 3
"""

# A domain's base type and modifier stand for the domain.
_COLUMNS = r"""
SELECT a.attrelid, a.attname, a.attnotnull OR t.typnotnull,
       a.attidentity <> '' OR COALESCE(pg_get_expr(d.adbin, d.adrelid) ~ 'nextval', false),
       d.oid IS NOT NULL, b.typname, b.typcategory, CASE WHEN t.typtype = 'd' THEN t.typtypmod ELSE a.atttypmod END,
       ARRAY(SELECT e.enumlabel::text FROM pg_enum e WHERE e.enumtypid = b.oid ORDER BY e.enumsortorder)
       || ARRAY(SELECT m[1]
                  FROM pg_constraint k, regexp_matches(pg_get_constraintdef(k.oid), '''(\w+)''', 'g') m
                 WHERE k.conrelid = a.attrelid AND k.contype = 'c' AND k.conkey @> ARRAY[a.attnum])
  FROM pg_attribute a
  JOIN pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p')
  JOIN pg_type t ON t.oid = a.atttypid
  JOIN pg_type b ON b.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END
  LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 WHERE a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
 ORDER BY a.attrelid, a.attnum
"""

_KEYS = """
SELECT k.conrelid, k.confrelid,
       ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY u(n, i)
               JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.n ORDER BY i),
       ARRAY(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY u(n, i)
               JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.n ORDER BY i)
  FROM pg_constraint k
 WHERE k.contype = 'f' AND k.conparentid = 0
 ORDER BY k.conrelid, k.conname
"""


@dataclass(frozen=True, slots=True)
class Key:
    """A foreign key, by the OIDs of its tables."""

    table: int
    referenced: int
    columns: list[str]
    referenced_columns: list[str]


class RowWriter:
    """Fills the tables of one database; the same seed writes the same rows."""

    def __init__(self, connection: psycopg.Connection[Any], *, seed: int = 1) -> None:
        self.connection = connection
        self.random = random.Random(seed)
        self.counter = 0
        self.names = {oid: sql.Identifier(schema, name) for oid, schema, name in connection.execute(_TABLES)}
        # ON CONFLICT cannot be used on a table with a deferrable unique constraint.
        self.deferring = {
            row[0]
            for row in connection.execute(
                "SELECT conrelid FROM pg_constraint WHERE contype IN ('u', 'x') AND condeferrable"
            )
        }
        self.columns: dict[int, list[Column]] = {}
        for oid, *values in connection.execute(_COLUMNS):
            self.columns.setdefault(oid, []).append(Column(*values))
        self.keys = [key for key in (Key(*row) for row in connection.execute(_KEYS)) if key.table in self.names]

    def fill(self, rows: int, *, skip: frozenset[str] = frozenset()) -> None:
        """Write some *rows* to every table not in *skip* that lets them in, and move every sequence."""
        with self.connection.transaction():
            self.connection.execute("SET LOCAL session_replication_role = replica")
            kept = {oid for oid, name in self.names.items() if name._obj[-1] in skip}
            written: set[int] = set()
            for oid in self._referenced_first():
                if oid not in kept:
                    self._fill_table(oid, rows, written)
                written.add(oid)
            self._close_cycles(kept)
            while sum(self._remove_orphans(key) for key in self.keys):
                pass
            self.connection.execute(
                "SELECT nextval(seqrelid) FROM pg_sequence WHERE pg_sequence_last_value(seqrelid) IS NULL"
            )

    def count_orphans(self) -> int:
        """Count the rows that violate a foreign key."""
        return sum(
            self.connection.execute(sql.SQL("SELECT count(*) {}").format(self._orphans(key))).fetchone()[0]  # type: ignore[index]
            for key in self.keys
        )

    def _referenced_first(self) -> list[int]:
        """Order the tables, by a walk of its own; in a cycle some key comes too early."""
        targets: dict[int, list[int]] = {}
        for key in self.keys:
            targets.setdefault(key.table, []).append(key.referenced)
        order: dict[int, None] = {}
        seen: set[int] = set()
        for start in self.names:
            work = [(start, False)]
            while work:
                oid, done = work.pop()
                if done:
                    order[oid] = None
                elif oid not in seen:
                    seen.add(oid)
                    work.append((oid, True))
                    work.extend((target, False) for target in targets.get(oid, ()))
        return [oid for oid in order if oid in self.names]

    def _fill_table(self, oid: int, rows: int, written: set[int]) -> None:
        keys = [key for key in self.keys if key.table == oid]
        pools = {id(key): self._pool(key) if key.referenced in written else [] for key in keys}
        for fill_all in (True, False):
            made = [self._row(oid, keys, pools, fill_all=fill_all) for _ in range(rows)]
            if self._insert(oid, made):
                return
        # Some check refuses a row: one by one, with stranger values, whatever is let in.
        for _ in range(3 * rows):
            self._insert(oid, [self._row(oid, keys, pools, fill_all=self.random.random() < 0.3, strange=True)])

    def _pool(self, key: Key) -> list[tuple[str, ...]]:
        columns = sql.SQL(", ").join(
            sql.SQL("{}::text").format(sql.Identifier(name)) for name in key.referenced_columns
        )
        missing = sql.SQL(" OR ").join(sql.SQL("{} IS NULL").format(sql.Identifier(n)) for n in key.referenced_columns)
        query = sql.SQL("SELECT {} FROM {} WHERE NOT ({}) ORDER BY 1 LIMIT 200")
        name = self.names.get(key.referenced)
        return self.connection.execute(query.format(columns, name, missing)).fetchall() if name else []

    def _row(
        self,
        oid: int,
        keys: list[Key],
        pools: dict[int, list[tuple[str, ...]]],
        *,
        fill_all: bool,
        strange: bool = False,
    ) -> dict[str, Any]:
        self.counter += 1
        row: dict[str, Any] = {}
        for key in keys:
            pool = pools[id(key)]
            if pool:
                row |= {
                    name: value
                    for name, value in zip(key.columns, self.random.choice(pool), strict=True)
                    if name not in row
                }
        of_keys = {name for key in keys for name in key.columns}
        for column in self.columns[oid]:
            if column.name in row or column.counts or column.has_default:
                continue
            if column.not_null or (fill_all and column.name not in of_keys):
                row[column.name] = make_value(column, self.counter, self.random, strange=strange)
        return row

    def _insert(self, oid: int, rows: list[dict[str, Any]]) -> bool:
        """Write rows that name the same columns; return whether they were let in."""
        names = list(rows[0])
        if names:
            columns = sql.SQL(", ").join(map(sql.Identifier, names))
            values = sql.SQL(", ").join(
                sql.SQL("({})").format(sql.SQL(", ").join(sql.Literal(as_text(row[name])) for name in names))
                for row in rows
            )
            statement = sql.SQL("INSERT INTO {} ({}) VALUES {}").format(self.names[oid], columns, values)
            if oid not in self.deferring:
                statement += sql.SQL(" ON CONFLICT DO NOTHING")
        else:
            statement = sql.SQL("INSERT INTO {} DEFAULT VALUES").format(self.names[oid])
        try:
            with self.connection.transaction():
                self.connection.execute(statement)
        except (psycopg.IntegrityError, psycopg.DataError, psycopg.errors.RaiseException):
            return False
        return True

    def _close_cycles(self, kept: set[int]) -> None:
        """Let keys that came too early, and self-references, refer to rows that are there now."""
        order = {oid: place for place, oid in enumerate(self._referenced_first())}
        for shift, key in enumerate(self.keys):
            if key.table in kept or order.get(key.referenced, -1) < order[key.table] or len(key.columns) > 1:
                continue
            column, referenced = sql.Identifier(key.columns[0]), sql.Identifier(key.referenced_columns[0])
            # One each while they last, for columns that are unique.
            statement = sql.SQL(
                "UPDATE {table} t SET {column} = p.keys[1 + (n.number + {shift}) % cardinality(p.keys)] "
                "FROM (SELECT tableoid, ctid, row_number() OVER () AS number FROM {table}) n, "
                "(SELECT array_agg({referenced} ORDER BY {referenced}) AS keys FROM {other} WHERE {referenced} IS NOT NULL) p "
                "WHERE n.tableoid = t.tableoid AND n.ctid = t.ctid AND cardinality(p.keys) > 0"
            ).format(
                table=self.names[key.table],
                column=column,
                shift=sql.Literal(shift),
                referenced=referenced,
                other=self.names[key.referenced],
            )
            try:
                with self.connection.transaction():
                    self.connection.execute(statement)
            except psycopg.IntegrityError:
                continue  # the column is unique, or a check forbids it: it stays NULL, or the row goes as an orphan

    def _orphans(self, key: Key) -> sql.Composed:
        pairs = list(zip(map(sql.Identifier, key.columns), map(sql.Identifier, key.referenced_columns), strict=True))
        return sql.SQL("FROM {} t WHERE {} AND NOT EXISTS (SELECT FROM {} r WHERE {})").format(
            self.names[key.table],
            sql.SQL(" AND ").join(sql.SQL("t.{} IS NOT NULL").format(column) for column, _ in pairs),
            self.names[key.referenced],
            sql.SQL(" AND ").join(sql.SQL("r.{} = t.{}").format(there, here) for here, there in pairs),
        )

    def _remove_orphans(self, key: Key) -> int:
        """Set the key to null, or remove the row where that is forbidden; return how many there were."""
        nullable = [c.name for c in self.columns[key.table] if c.name in key.columns and not c.not_null]
        where = self._orphans(key)
        if nullable:
            statement = sql.SQL(
                "UPDATE {} o SET {} = NULL FROM (SELECT t.tableoid, t.ctid {}) x WHERE o.ctid = x.ctid AND o.tableoid = x.tableoid"
            )
            try:
                with self.connection.transaction():
                    return self.connection.execute(
                        statement.format(self.names[key.table], sql.Identifier(nullable[0]), where)
                    ).rowcount
            except psycopg.IntegrityError:
                pass
        return self.connection.execute(sql.SQL("DELETE {}").format(where)).rowcount
