"""Other vendors, such as MySQL, MariaDB and Oracle: the identity, and Django's own introspection and flush.

It keeps fewer promises, and its warning says which. A vendor that is to keep them all gets a folder of its own.

Django's introspection returns tables, single-column foreign keys and sequences. Tables have no schema here: Django names
them without. The token is a hash of these. Unlike other backends' tokens it misses a change of triggers or of on-delete
actions, and costs two queries a table; on MySQL and MariaDB, two in all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from django.core.management.color import no_style
from django.db import DatabaseError, Error, IntegrityError, transaction

from testdb_app.backends.base import (
    Action,
    BaseBackend,
    BaseDataBackend,
    DatabaseIdentity,
    DatabaseState,
    ResetPlan,
    Script,
    ScriptContext,
    Statement,
    Step,
)
from testdb_app.baseline_state import Baseline, RowChanges
from testdb_app.diff import TableDifference, Violation
from testdb_app.exceptions import ConnectionLostError, TestDBError, UnsupportedError, reason_of
from testdb_app.schema import (
    Column,
    ForeignKey,
    LeftOut,
    QualifiedName,
    Schema,
    SequenceInfo,
    SequenceUse,
    Table,
    TableDetails,
    UniqueKey,
    gather_details,
)

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.backends.utils import CursorWrapper

LIVE_NAMES = {
    "cockroachdb": "SELECT current_database()",
    "microsoft": "SELECT DB_NAME()",
    "mssql": "SELECT DB_NAME()",
    "mysql": "SELECT DATABASE()",
    # On Oracle, Django creates and drops a user for tests, not a database.
    "oracle": "SELECT SYS_CONTEXT('USERENV', 'SESSION_USER') FROM DUAL",
}
# What Django's introspection reads table by table: for 27 tables MariaDB 10.11 takes 1 ms for both, and 40 ms for Django's.
RELATIONS = {
    "mysql": "SELECT table_name, column_name, referenced_column_name, referenced_table_name "
    "FROM information_schema.key_column_usage "
    "WHERE table_schema = DATABASE() AND referenced_table_schema = DATABASE() AND referenced_table_name IS NOT NULL"
}
SEQUENCES = {
    "mysql": "SELECT table_name, column_name FROM information_schema.columns "
    "WHERE table_schema = DATABASE() AND extra LIKE '%auto_increment%'"
}
# The next value of the sequence of each table that has one. MySQL answers from statistics that may be a day old.
NEXT_VALUES = {
    "MariaDB": "SELECT table_name, auto_increment FROM information_schema.tables "
    "WHERE table_schema = DATABASE() AND auto_increment IS NOT NULL"
}

WARNING = (
    "This database has no backend of its own in testdb_app, so Django's introspection and sql_flush are used. What is lost: "
    "no lock is taken and no lock wait is bounded, so rows that others write meanwhile may stay; triggers fire; a cycle of "
    "foreign keys goes only where the database defers its checks or Django switches them off; every sequence is reset by "
    "Django's own SQL, each time, but for MariaDB, which tells those that have moved; on databases that commit at "
    "ALTER TABLE or TRUNCATE a failure may leave half of it done; tables that Django's introspection does not list are not "
    "seen; there is no baseline; marks are not supported; and the name of the live database is asked only of MySQL, MariaDB, "
    "Oracle, SQL Server and CockroachDB."
)

_QUOTES = frozenset('"`[]')
_ROWS_A_CALL = 1_000
_TABLES_A_QUERY = 500


class _Structure(NamedTuple):
    """One reading of the structure, by table; ``unquotable`` tables have a name that Django cannot quote."""

    relations: dict[str, dict[str, tuple[str, str]]]
    sequences: dict[str, list[str]]
    unquotable: list[str]

    @property
    def token(self) -> str:
        content = [sorted(self.relations.items()), sorted(self.sequences.items()), self.unquotable]
        return hashlib.sha256(repr(content).encode("utf-8", "surrogatepass")).hexdigest()


class GenericData(BaseDataBackend):
    """See :class:`testdb_app.backends.base.BaseDataBackend`."""

    def read_schema(self, connection: BaseDatabaseWrapper, before: Schema | None) -> Schema:
        """Read the schema, each time: nothing shows cheaply whether it has changed."""
        return BACKEND.read_schema(connection)

    def read_keys(
        self, connection: BaseDatabaseWrapper, tables: Iterable[QualifiedName]
    ) -> Mapping[QualifiedName, tuple[str, ...]]:
        """Return the primary keys, from Django's introspection."""
        introspection: Any = connection.introspection
        with connection.cursor() as cursor:
            return {name: tuple(introspection.get_primary_key_columns(cursor, name.name) or ()) for name in tables}

    def delete_together(
        self, connection: BaseDatabaseWrapper, deletes: Sequence[tuple[QualifiedName, str, Sequence[Any]]]
    ) -> list[int]:
        """Delete one after the other. A cycle of keys that are checked at once fails, as it does in Django."""
        removed = []
        with connection.cursor() as cursor:
            for table, condition, parameters in deletes:
                cursor.execute(
                    f"DELETE FROM {self.quote(connection, table).replace('%', '%%')} WHERE {condition}",
                    list(parameters),
                )
                removed.append(cursor.rowcount)
        return removed

    def insert_rows(
        self, connection: BaseDatabaseWrapper, table: QualifiedName | str, columns: Sequence[str], rows: Iterable[Any]
    ) -> int:
        """Insert by ``executemany()``. All or nothing only in the caller's transaction."""
        listed = ", ".join(self.quote(connection, column) for column in columns).replace("%", "%%")
        places = ", ".join("%s" for _ in columns)
        sql = f"INSERT INTO {self.quote(connection, table).replace('%', '%%')} ({listed}) VALUES ({places})"
        count, remaining = 0, iter(rows)
        with connection.cursor() as cursor:
            while batch := list(islice(remaining, _ROWS_A_CALL)):
                cursor.executemany(sql, batch)
                count += len(batch)
        return count

    def compare_with_baseline(
        self,
        connection: BaseDatabaseWrapper,
        baseline: Baseline | None,
        tables: Iterable[QualifiedName],
        limit: int,
    ) -> list[TableDifference]:
        """Report how many rows there are, and not which: there is no baseline here."""
        counts = BACKEND.count_rows(connection, sorted(tables))
        return [TableDifference(table=name, added=rows) for name, rows in counts.items() if rows]

    def find_violations(self, connection: BaseDatabaseWrapper, schema: Schema, limit: int) -> list[Violation]:
        """Find what ``connection.check_constraints()`` finds: on most vendors the first dangling key, on others nothing."""
        try:
            connection.check_constraints()
        except IntegrityError as error:
            return [Violation(constraint="", kind="constraint", table="", detail=" ".join(str(error).split()))]
        return []


class GenericBackend(BaseBackend):
    """The backend for a vendor without a folder."""

    vendor = "generic"
    data = GenericData()
    warning = WARNING

    def identify(self, connection: BaseDatabaseWrapper) -> DatabaseIdentity:
        """Read the identity over the live connection if the vendor's query for it is known; otherwise from the settings."""
        settings = connection.settings_dict
        is_oracle = connection.vendor == "oracle"
        configured = str(settings["USER"]).upper() if is_oracle else str(settings["NAME"])
        name = configured
        if connection.vendor in LIVE_NAMES:
            with connection.cursor() as cursor:
                cursor.execute(LIVE_NAMES[connection.vendor])
                name = str(cursor.fetchone()[0])
        where = f"{settings.get('HOST') or 'the local host'}" + (f":{settings['PORT']}" if settings.get("PORT") else "")
        return DatabaseIdentity(
            alias=connection.alias,
            vendor=connection.vendor,
            configured=configured,
            name=name,
            server=f"{connection.display_name} on {where}",
            user=str(settings.get("USER") or ""),
            is_live=connection.vendor in LIVE_NAMES,
        )

    def read_schema(self, connection: BaseDatabaseWrapper) -> Schema:
        """Read the schema as far as Django shows it. Not from one snapshot."""
        with connection.cursor() as cursor:
            structure = _read_structure(connection, cursor)
        keys = [
            ForeignKey(
                name=f"{table}_{column}_fk",
                table=qualify(table),
                columns=(column,),
                referenced=qualify(referenced),
                referenced_columns=(referenced_column,),
            )
            for table, relations in structure.relations.items()
            for column, (referenced_column, referenced) in relations.items()
            if referenced in structure.relations
        ]
        return Schema(
            vendor=connection.vendor,
            tables=tuple(Table(name=qualify(table)) for table in sorted(structure.relations)),
            foreign_keys=tuple(sorted(keys, key=lambda key: (key.table, key.name))),
            sequences=tuple(_sequence(table, columns) for table, columns in sorted(structure.sequences.items())),
            left_out=tuple(
                LeftOut(name=qualify(table), reason="Django cannot quote its name") for table in structure.unquotable
            ),
            search_path=("",),
            token=structure.token,
        )

    def read_details(
        self, connection: BaseDatabaseWrapper, schema: Schema, *, count_rows: bool
    ) -> Mapping[QualifiedName, TableDetails]:
        """Read the details of all tables of *schema*. Two queries a table or more; with *count_rows* another one for each.

        A column's type is the name of Django's field for it, where Django has one.
        """
        columns: dict[QualifiedName, list[Column]] = {}
        keys: dict[QualifiedName, list[UniqueKey]] = {}
        with connection.cursor() as cursor:
            for name in schema.by_name:
                described: list[Any] = connection.introspection.get_table_description(cursor, name.name)
                columns[name] = [_column(connection, column) for column in described]
                keys[name] = _unique_keys(connection, cursor, name, columns[name])
        rows: dict[QualifiedName, int | None] = {}
        if count_rows:
            rows.update(self.count_rows(connection, schema.by_name))
        return gather_details(schema.by_name, columns=columns, unique_keys=keys, rows=rows)

    def read_state(
        self,
        connection: BaseDatabaseWrapper,
        *,
        lock_timeout: float,
        baseline: Baseline | None = None,
        schema: Schema | None = None,
    ) -> DatabaseState:
        """Find the tables with rows, and on MariaDB the sequences that have moved; elsewhere all are reported as moved.

        Django has no way to bound a lock wait, so *lock_timeout* has no effect here.
        """
        with connection.cursor() as cursor:
            structure = _read_structure(connection, cursor)
            filled = _find_filled(connection, cursor, sorted(structure.relations))
            values = _read_next_values(connection, cursor)
            moved = [table for table in structure.sequences if values is None or values.get(table) != 1]
        return DatabaseState(
            identity=self.identify(connection),
            token=structure.token,
            sizes={qualify(table): 0 for table in filled},
            states={qualify(table): None for table in moved},
        )

    def count_rows(self, connection: BaseDatabaseWrapper, tables: Iterable[QualifiedName]) -> dict[QualifiedName, int]:
        """Count the rows of each of *tables*. One query for each."""
        with connection.cursor() as cursor:
            return {name: _count(connection, cursor, "SELECT COUNT(*) FROM {}", name.name) for name in tables}

    def read_contents(
        self, connection: BaseDatabaseWrapper, tables: Iterable[QualifiedName]
    ) -> Mapping[QualifiedName, object]:
        """Return the rows of *tables* and where their sequences are, on MariaDB. A query for each, and one for all sequences."""
        with connection.cursor() as cursor:
            values = _read_next_values(connection, cursor)
            if values is None:
                return {}
            contents: dict[QualifiedName, object] = {}
            for name in tables:
                try:
                    cursor.execute(f"SELECT * FROM {connection.ops.quote_name(name.name)}")
                except DatabaseError:
                    return {}  # a test has dropped it
                contents[name] = values.get(name.name), tuple(cursor.fetchall())
            return contents

    def count_references(
        self, connection: BaseDatabaseWrapper, keys: Sequence[ForeignKey], baseline: Baseline | None = None
    ) -> tuple[int, ...]:
        """Count, for each key, the rows of its referencing table that refer to some row. One query for each."""
        query = "SELECT COUNT(*) FROM {} WHERE {} IS NOT NULL"
        with connection.cursor() as cursor:
            return tuple(_count(connection, cursor, query, key.table.name, *key.columns) for key in keys)

    def write_sql(self, connection: BaseDatabaseWrapper, plan: ResetPlan, context: ScriptContext) -> Script:
        """Write Django's flush of the tables of a plan, and its reset of their sequences.

        The transaction is not part of it, because every vendor begins one in another way. Raises
        :class:`UnsupportedError` for sequences that this vendor's Django backend cannot reset, and within a transaction
        for statements that would commit it.
        """
        tables = [name.name for step in plan.steps if step.action is Action.DELETE for name in step.names]
        flush: list[str] = connection.ops.sql_flush(no_style(), tables, reset_sequences=False, allow_cascade=False)
        restarts = _restarts(connection, context.schema, plan.steps)
        emptied = {f"DELETE FROM {connection.ops.quote_name(table)}": (qualify(table),) for table in tables}
        body = tuple(Statement(sql=sql, counts=emptied.get(sql, ())) for sql in map(_without_end, flush))
        # Last, because ALTER TABLE and TRUNCATE commit on some vendors.
        closing = tuple(Statement(sql=sql) for sql in map(_without_end, restarts))
        commits = [each.sql for each in body + closing if not each.sql.startswith(("DELETE", "SET", "UPDATE"))]
        if context.within_transaction and commits and not connection.features.can_rollback_ddl:
            raise UnsupportedError(
                f"Not supported on {connection.display_name}: a reset within a transaction that would end it by "
                f"{commits[0]}. Nothing was changed. Reset outside of the transaction, or without the sequences "
                "(reset_sequences=False)."
            )
        return Script(opening=(), body=body, closing=closing, checks=plan.checks)

    def run(
        self, connection: BaseDatabaseWrapper, script: Script, *, within_transaction: bool
    ) -> dict[QualifiedName, RowChanges]:
        """Run *script* as Django runs its flush, and return the rows removed per table, if the database reports them.

        All or nothing only if the database can roll back what Django's statements do. Raises :class:`ResetError` or one of
        its subclasses, chained to the database's own error.
        """
        removed: dict[QualifiedName, RowChanges] = {}
        try:
            # With autocommit off, SQLite would commit at the end of a savepoint.
            savepoint = connection.in_atomic_block
            with transaction.atomic(connection.alias, savepoint=savepoint), connection.cursor() as cursor:
                script.refuse_references(self.count_references(connection, script.checks))
                for statement in script.statements:
                    cursor.execute(statement.sql)
                    removed |= dict.fromkeys(statement.counts, RowChanges(removed=cursor.rowcount))
        except BaseException as error:
            with suppress(Error):
                # MySQL's sql_flush switches the checks off first and on last.
                connection.enable_constraint_checking()
            if isinstance(error, Error):
                raise self.explain(connection, error, doing="The reset of") from error
            raise
        return removed

    def explain(self, connection: BaseDatabaseWrapper, error: Error, *, doing: str) -> TestDBError:
        """Return the package's error for Django's *error*; a connection that does not answer any more counts as lost."""
        if connection.connection is None or connection.is_usable():
            return super().explain(connection, error, doing=doing)
        return ConnectionLostError(
            f'{doing} database "{connection.settings_dict["NAME"]}" (alias "{connection.alias}") failed: '
            f"{reason_of(error)}. The connection is lost. Check that the server runs, and try again."
        )


def qualify(table: str) -> QualifiedName:
    """Return the name of a table; it has no schema."""
    return QualifiedName("", table)


def _read_structure(connection: BaseDatabaseWrapper, cursor: CursorWrapper) -> _Structure:
    names = connection.introspection.table_names(cursor)
    # Django's quote_name() does not double a quote inside a name.
    tables = [name for name in names if not _QUOTES & set(name)]
    relations: dict[str, dict[str, tuple[str, str]]] = {table: {} for table in tables}
    sequences: dict[str, list[str]] = {}
    for table, column, referenced_column, referenced in sorted(_read_relations(connection, cursor, tables)):
        if table in relations:
            relations[table][column] = (referenced_column, referenced)
    for table, column in sorted(_read_sequences(connection, cursor, tables)):
        if table in relations:
            sequences.setdefault(table, []).append(column)
    return _Structure(relations, sequences, sorted(set(names) - set(tables)))


def _read_relations(
    connection: BaseDatabaseWrapper, cursor: CursorWrapper, tables: Iterable[str]
) -> Iterable[tuple[str, str, str, str]]:
    """Return table, column, referenced column and referenced table of each foreign key."""
    if connection.vendor in RELATIONS:
        cursor.execute(RELATIONS[connection.vendor])
        return [(table, column, *to) for table, column, *to in cursor.fetchall()]
    found = {table: connection.introspection.get_relations(cursor, table) for table in tables}
    # Django 6.1 adds the on-delete action to the pair.
    return [(table, column, *to[:2]) for table, relations in found.items() for column, to in relations.items()]


def _read_sequences(
    connection: BaseDatabaseWrapper, cursor: CursorWrapper, tables: Iterable[str]
) -> Iterable[tuple[str, str]]:
    """Return table and column of each sequence."""
    if connection.vendor in SEQUENCES:
        cursor.execute(SEQUENCES[connection.vendor])
        return [(table, column) for table, column in cursor.fetchall()]
    found = {table: connection.introspection.get_sequences(cursor, table) for table in tables}
    return [(table, str(each["column"])) for table, sequences in found.items() for each in sequences]


def _read_next_values(connection: BaseDatabaseWrapper, cursor: CursorWrapper) -> dict[str, int] | None:
    """Return the next value of the sequence of each table; None if the vendor does not tell."""
    if connection.display_name not in NEXT_VALUES:
        return None
    cursor.execute(NEXT_VALUES[connection.display_name])
    return {table: int(value) for table, value in cursor.fetchall()}


def _sequence(table: str, columns: list[str]) -> SequenceInfo:
    uses = tuple(SequenceUse(table=qualify(table), column=column, how="identity") for column in columns)
    return SequenceInfo(name=qualify(table), uses=uses)


def _find_filled(connection: BaseDatabaseWrapper, cursor: CursorWrapper, tables: Sequence[str]) -> list[str]:
    """Return the tables that have rows. One query for many of them."""
    filled: list[str] = []
    for start in range(0, len(tables), _TABLES_A_QUERY):
        asked = tables[start : start + _TABLES_A_QUERY]
        each = (
            f"CASE WHEN EXISTS (SELECT 1 FROM {connection.ops.quote_name(table)}) THEN 1 ELSE 0 END" for table in asked
        )
        cursor.execute(f"SELECT {', '.join(each)}{connection.features.bare_select_suffix}")
        filled += [table for table, has_rows in zip(asked, cursor.fetchone(), strict=True) if has_rows]
    return filled


def _count(connection: BaseDatabaseWrapper, cursor: CursorWrapper, query: str, *names: str) -> int:
    cursor.execute(query.format(*map(connection.ops.quote_name, names)))
    return int(cursor.fetchone()[0])


def _without_end(sql: str) -> str:
    return sql.removesuffix(";")


def _restarts(connection: BaseDatabaseWrapper, schema: Schema, steps: Sequence[Step]) -> list[str]:
    sequences = [
        {"table": use.table.name, "column": use.column}
        for step in steps
        if step.action is Action.RESTART
        for name in step.names
        for use in schema.sequences_by_name[name].uses
    ]
    if not sequences:
        return []
    statements: list[str]
    if connection.display_name in NEXT_VALUES:
        # Their tables are empty by now. On a disk, TRUNCATE takes a third to a tenth of the time of ALTER TABLE.
        tables = [each["table"] for each in sequences]
        statements = connection.ops.sql_flush(no_style(), tables, reset_sequences=True, allow_cascade=False)
    else:
        statements = connection.ops.sequence_reset_by_name_sql(no_style(), sequences)
    if not statements:
        raise UnsupportedError(
            f"Django's backend for {connection.display_name} cannot reset sequences. Nothing was changed. Reset without "
            "them (--no-reset-sequences)."
        )
    return statements


def _column(connection: BaseDatabaseWrapper, column: Any) -> Column:
    try:
        data_type = str(connection.introspection.get_field_type(column.type_code, column))
    except KeyError:
        data_type = str(column.type_code)
    return Column(
        name=column.name,
        data_type=data_type,
        nullable=bool(column.null_ok),
        default="" if column.default is None else str(column.default),
    )


def _unique_keys(
    connection: BaseDatabaseWrapper, cursor: CursorWrapper, name: QualifiedName, columns: list[Column]
) -> list[UniqueKey]:
    constraints: Mapping[str, Any] = connection.introspection.get_constraints(cursor, name.name)
    # Django's parser for SQLite takes a word of the SQL for a column's name, as in "..., height numeric(5, 2), UNIQUE (...)".
    known = {column.name for column in columns}
    return [
        UniqueKey(columns=tuple(constraint["columns"]), is_primary=bool(constraint["primary_key"]))
        for constraint in constraints.values()
        if constraint["columns"]
        and known.issuperset(constraint["columns"])
        and (constraint["primary_key"] or constraint["unique"])
    ]


BACKEND = GenericBackend()
