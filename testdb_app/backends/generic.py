"""Other vendors: Django's own introspection and ``sql_flush()``.

It keeps fewer promises, and its warning says which. A vendor that is to keep them all gets a folder of its own.

Django's introspection returns tables, single-column foreign keys and sequences. Tables have no schema here: Django names
them without. The token is a hash of the tables, their relations and their sequences. Unlike other backends' tokens it
misses a change of triggers or of on-delete actions, and costs two queries a table.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from django.core.management.color import no_style
from django.db import Error, IntegrityError

from testdb_app.backends.base import (
    Action,
    BaseBackend,
    BaseDataBackend,
    DatabaseIdentity,
    DatabaseState,
    Mark,
    Script,
    Statement,
    Step,
    StoredState,
    has_autocommit,
)
from testdb_app.baseline_state import BASELINE, Baseline, RowChanges, describe_tables
from testdb_app.diff import LateSequence, TableDifference, Violation
from testdb_app.exceptions import (
    ConnectionLostError,
    ResetError,
    RowsRemainError,
    TransactionStateError,
    UnsupportedError,
)
from testdb_app.schema import (
    Column,
    ForeignKey,
    LeftOut,
    QualifiedName,
    Schema,
    SequenceUse,
    Table,
    TableDetails,
    UniqueKey,
    gather_details,
)
from testdb_app.schema import SequenceInfo as SequenceValue

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

_QUOTES = frozenset('"`[]')


class _Structure(NamedTuple):
    """One reading of the structure, by table; ``unquotable`` tables have a name that Django cannot quote."""

    relations: dict[str, dict[str, tuple[str, str]]]
    sequences: dict[str, list[str]]
    unquotable: list[str]

    @property
    def token(self) -> str:
        content = [sorted(self.relations.items()), sorted(self.sequences.items()), self.unquotable]
        return hashlib.sha256(repr(content).encode("utf-8", "surrogatepass")).hexdigest()


def qualify(table: str) -> QualifiedName:
    """Return the name of a table; it has no schema."""
    return QualifiedName("", table)


def identify(connection: BaseDatabaseWrapper) -> DatabaseIdentity:
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


def read_schema(connection: BaseDatabaseWrapper) -> Schema:
    """Read the schema as far as Django shows it. Two queries a table, not from one snapshot."""
    with connection.cursor() as cursor:
        structure = _read_structure(connection, cursor)
    tables = sorted(structure.relations)
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
        tables=tuple(Table(name=qualify(table)) for table in tables),
        foreign_keys=tuple(sorted(keys, key=lambda key: (key.table, key.name))),
        sequences=tuple(_sequence(table, columns) for table, columns in sorted(structure.sequences.items())),
        left_out=tuple(
            LeftOut(name=qualify(table), reason="Django cannot quote its name") for table in structure.unquotable
        ),
        search_path=("",),
        token=structure.token,
    )


def count_live_rows(connection: BaseDatabaseWrapper, tables: Iterable[QualifiedName]) -> dict[QualifiedName, int]:
    """Count the rows of each of *tables*. One query for each."""
    with connection.cursor() as cursor:
        return {name: _read_number(connection, cursor, "SELECT COUNT(*) FROM {}", name.name) for name in tables}


def count_references(
    connection: BaseDatabaseWrapper, keys: Sequence[ForeignKey], baseline: Baseline | None = None
) -> tuple[int, ...]:
    """Count, for each key, the rows of its referencing table that refer to some row. One query for each."""
    query = "SELECT COUNT(*) FROM {} WHERE {} IS NOT NULL"
    with connection.cursor() as cursor:
        return tuple(_read_number(connection, cursor, query, key.table.name, *key.columns) for key in keys)


def _read_number(connection: BaseDatabaseWrapper, cursor: CursorWrapper, query: str, *names: str) -> int:
    cursor.execute(query.format(*map(connection.ops.quote_name, names)))
    return int(cursor.fetchone()[0])


def _read_structure(connection: BaseDatabaseWrapper, cursor: CursorWrapper) -> _Structure:
    introspection = connection.introspection
    names = introspection.table_names(cursor)
    # Django's quote_name() does not double a quote inside a name.
    tables = [name for name in names if not _QUOTES & set(name)]
    relations: dict[str, dict[str, tuple[str, str]]] = {}
    sequences: dict[str, list[str]] = {}
    for table in tables:
        # Django 6.1 adds the on-delete action to the pair.
        found: dict[str, Any] = introspection.get_relations(cursor, table)
        relations[table] = {column: (to[0], to[1]) for column, to in sorted(found.items())}
        columns = sorted(str(sequence["column"]) for sequence in introspection.get_sequences(cursor, table))
        if columns:
            sequences[table] = columns
    return _Structure(relations, sequences, sorted(set(names) - set(tables)))


def _sequence(table: str, columns: list[str]) -> SequenceValue:
    uses = tuple(SequenceUse(table=qualify(table), column=column, how="identity") for column in columns)
    return SequenceValue(name=qualify(table), uses=uses)


def _tables(connection: BaseDatabaseWrapper, steps: Sequence[Step]) -> list[str]:
    for step in steps:
        if step.action is Action.TRUNCATE:
            raise UnsupportedError(
                f"TRUNCATE is not supported on {connection.display_name}: Django decides how a table is emptied there. Use "
                'the strategy "auto".'
            )
    return [name.name for step in steps if step.action is Action.DELETE for name in step.names]


def _count(connection: BaseDatabaseWrapper, sql: str, tables: Sequence[str]) -> Statement:
    text = sql.removesuffix(";")
    emptied = {f"DELETE FROM {connection.ops.quote_name(table)}": table for table in tables}
    counts = (QualifiedName("", emptied[text]),) if text in emptied else ()
    return Statement(sql=text, counts=counts)


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
    statements: list[str] = connection.ops.sequence_reset_by_name_sql(no_style(), sequences)
    if not statements:
        raise UnsupportedError(
            f"Django's backend for {connection.display_name} cannot reset sequences. Nothing was changed. Reset without "
            "them (--no-reset-sequences)."
        )
    return statements


@contextmanager
def _transaction(connection: BaseDatabaseWrapper, *, within: bool) -> Iterator[None]:
    """Do the same as ``atomic()``, which works only on connections that ``django.db.connections`` contains."""
    if not within and not has_autocommit(connection):
        raise TransactionStateError(
            f'A transaction is open on the connection "{connection.alias}". Nothing was changed. Commit or roll back first, '
            "or reset with within_transaction=True."
        )
    savepoint = connection.savepoint() if within else None
    if not within:
        connection.set_autocommit(False)
    try:
        yield
        if savepoint:
            connection.savepoint_commit(savepoint)
        elif not within:
            connection.commit()
    except BaseException:
        with suppress(Error):
            if savepoint:
                connection.savepoint_rollback(savepoint)
            elif not within:
                connection.rollback()
            # MySQL's sql_flush switches the checks off first and on last.
            connection.enable_constraint_checking()
        raise
    finally:
        if not within:
            with suppress(Error):
                connection.set_autocommit(True)


def _verify(connection: BaseDatabaseWrapper, script: Script) -> None:
    remaining = [str(name) for name, rows in count_live_rows(connection, script.verify).items() if rows]
    if remaining:
        raise RowsRemainError(
            f"After the deletion there are rows in {', '.join(remaining)}: a trigger wrote them, or another session. "
            "The deletion was rolled back, where the database can. Exclude these tables, or end the other session.",
            tables=remaining,
        )


def _translate(connection: BaseDatabaseWrapper, error: Error) -> ResetError:
    text = (
        f'Resetting database "{connection.settings_dict["NAME"]}" (alias "{connection.alias}") failed: '
        f"{' '.join(str(error).split())}."
    )
    if connection.connection is None or not connection.is_usable():
        return ConnectionLostError(f"{text} The connection is lost. Check that the server runs, and reset again.")
    return ResetError(
        f"{text} It was rolled back, where the database can. Correct what the message names, or exclude the table."
    )


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


_ROWS_A_CALL = 1_000


class GenericData(BaseDataBackend):
    """See :class:`testdb_app.backends.base.BaseDataBackend`."""

    def read_schema(self, connection: BaseDatabaseWrapper, before: Schema | None) -> Schema:
        """Read the schema, each time: nothing shows cheaply whether it has changed."""
        return read_schema(connection)

    def read_keys(
        self, connection: BaseDatabaseWrapper, tables: Iterable[QualifiedName]
    ) -> Mapping[QualifiedName, tuple[str, ...]]:
        """Return the primary keys, from Django's introspection."""
        introspection: Any = connection.introspection
        with connection.cursor() as cursor:
            return {name: tuple(introspection.get_primary_key_columns(cursor, name.name) or ()) for name in tables}

    def accepting_deletes(
        self, connection: BaseDatabaseWrapper, schema: Schema, tables: Iterable[QualifiedName]
    ) -> AbstractContextManager[None]:
        """Do nothing: no server refuses."""
        return nullcontext()

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

    def reserve_keys(self, connection: BaseDatabaseWrapper, table: str, column: str, number: int) -> Sequence[int]:
        """Raise :class:`UnsupportedError`."""
        _refuse(connection, "reserving the keys of rows")

    def store_state(self, connection: BaseDatabaseWrapper, tables: frozenset[QualifiedName] | None) -> StoredState:
        """Raise :class:`UnsupportedError`: this backend cannot copy and compare rows exactly."""
        _refuse(connection, "a snapshot")

    def compare_with_baseline(
        self,
        connection: BaseDatabaseWrapper,
        baseline: Baseline | None,
        tables: Iterable[QualifiedName],
        limit: int,
    ) -> list[TableDifference]:
        """Report how many rows there are, and not which: there is no baseline here."""
        found = []
        with connection.cursor() as cursor:
            for name in sorted(tables):
                cursor.execute(f"SELECT COUNT(*) FROM {self.quote(connection, name)}")
                if rows := int(cursor.fetchone()[0]):
                    found.append(TableDifference(table=name, added=rows))
        return found

    def find_violations(self, connection: BaseDatabaseWrapper, schema: Schema, limit: int) -> list[Violation]:
        """Find what ``connection.check_constraints()`` finds: on most vendors the first dangling key, on others nothing."""
        try:
            connection.check_constraints()
        except IntegrityError as error:
            return [Violation(constraint="", kind="constraint", table="", detail=" ".join(str(error).split()))]
        return []

    def find_late_sequences(self, connection: BaseDatabaseWrapper, schema: Schema) -> list[LateSequence]:
        """Raise :class:`UnsupportedError`: Django cannot read where a sequence is."""
        _refuse(connection, "a look at where sequences are")


def _refuse(connection: BaseDatabaseWrapper, what: str) -> NoReturn:
    raise UnsupportedError(
        f"Not supported on {connection.display_name}: {what}. Compare what the test is about by queries of its own."
    )


WARNING = (
    "This database has no backend of its own in testdb_app, so Django's introspection and sql_flush are used. What is lost: "
    "no lock is taken and no lock wait is bounded, so rows that others write meanwhile may stay; triggers fire; a cycle of "
    "foreign keys goes only where the database defers its checks or Django switches them off; every sequence is reset by "
    "Django's own SQL, each time; on databases that commit at ALTER TABLE or TRUNCATE a failure may leave half of it done; "
    "tables that Django's introspection does not list are not seen; marks are not supported; and the name of the live "
    "database is asked only of MySQL, MariaDB, Oracle, SQL Server and CockroachDB."
)


class GenericBackend(BaseBackend):
    """The backend for a vendor without a folder. Every method does what its function says."""

    vendor = "generic"
    data = GenericData()
    warning = WARNING

    def identify(self, connection: BaseDatabaseWrapper) -> DatabaseIdentity:
        return identify(connection)

    def read_schema(self, connection: BaseDatabaseWrapper) -> Schema:
        return read_schema(connection)

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
            rows.update(count_live_rows(connection, schema.by_name))
        return gather_details(schema.by_name, columns=columns, unique_keys=keys, rows=rows)

    def read_state(
        self, connection: BaseDatabaseWrapper, *, lock_timeout: float, baseline: Baseline | None = None
    ) -> DatabaseState:
        """Find the tables with rows. No query shows whether a sequence has moved, so all are reported as moved.

        Django has no way to bound a lock wait, so *lock_timeout* has no effect here.
        """
        with connection.cursor() as cursor:
            structure = _read_structure(connection, cursor)
            query = f"SELECT CASE WHEN EXISTS (SELECT 1 FROM {{}}) THEN 1 ELSE 0 END{connection.features.bare_select_suffix}"
            filled = [table for table in sorted(structure.relations) if _read_number(connection, cursor, query, table)]
        return DatabaseState(
            identity=identify(connection),
            token=structure.token,
            sizes={qualify(table): 0 for table in filled},
            states={qualify(table): None for table in structure.sequences},
        )

    def count_rows(self, connection: BaseDatabaseWrapper, tables: Iterable[QualifiedName]) -> dict[QualifiedName, int]:
        return count_live_rows(connection, tables)

    def count_references(
        self, connection: BaseDatabaseWrapper, keys: Sequence[ForeignKey], baseline: Baseline | None = None
    ) -> tuple[int, ...]:
        return count_references(connection, keys, baseline)

    def script(
        self,
        connection: BaseDatabaseWrapper,
        schema: Schema,
        steps: Sequence[Step],
        *,
        baseline: Baseline | None = None,
        checks: Sequence[ForeignKey],
        verify: Sequence[QualifiedName],
        lock_timeout: float,
        within_transaction: bool,
        for_tracker: bool = False,
        identity: DatabaseIdentity | None = None,
    ) -> Script:
        """Write the SQL of a plan. The transaction is not part of it, because every vendor begins one in another way.

        Raises :class:`UnsupportedError` for TRUNCATE, and for sequences that this vendor's Django backend cannot reset.
        """
        tables = _tables(connection, steps)
        flush = (
            connection.ops.sql_flush(no_style(), tables, reset_sequences=False, allow_cascade=False) if tables else []
        )
        return Script(
            opening=(),
            body=tuple(_count(connection, sql, tables) for sql in flush),
            # Last, because ALTER TABLE commits on some vendors.
            closing=tuple(Statement(sql=sql.removesuffix(";")) for sql in _restarts(connection, schema, steps)),
            checks=tuple(checks),
            verify=tuple(verify),
        )

    def run(
        self, connection: BaseDatabaseWrapper, script: Script, *, within_transaction: bool
    ) -> dict[QualifiedName, RowChanges]:
        """Run *script* and return the rows removed per table, if the database reports them.

        All or nothing only if the database can roll back what Django's statements do. Raises :class:`ResetError` or one of
        its subclasses, chained to the database's own error.
        """
        removed: dict[QualifiedName, RowChanges] = {}
        try:
            with _transaction(connection, within=within_transaction), connection.cursor() as cursor:
                script.refuse_references(count_references(connection, script.checks))
                for statement in script.opening + script.body:
                    cursor.execute(statement.sql)
                    removed |= dict.fromkeys(statement.counts, RowChanges(removed=cursor.rowcount))
                _verify(connection, script)
                for statement in script.closing:
                    cursor.execute(statement.sql)
        except Error as error:
            raise _translate(connection, error) from error
        return removed

    def set_mark(
        self, connection: BaseDatabaseWrapper, mark: Mark, *, present: bool, identity: DatabaseIdentity | None = None
    ) -> None:
        """Raise :class:`UnsupportedError`: it is unknown whether a copy of the database would include a mark."""
        raise UnsupportedError(
            f'The mark "{mark}" is not supported on {connection.display_name}. Name the databases that may be reset in '
            'TESTDB["ALLOWED_DATABASES"] or with --allow-database instead.'
        )

    def count_changes(
        self, connection: BaseDatabaseWrapper, baseline: Baseline, tables: Iterable[QualifiedName]
    ) -> dict[QualifiedName, RowChanges]:
        """Return nothing: there is no baseline."""
        return {}

    def read_baseline(self, connection: BaseDatabaseWrapper, state: str = BASELINE) -> Baseline | None:
        """Return None: this backend captures no baseline."""
        return None

    def read_shape(
        self, connection: BaseDatabaseWrapper, schema: Schema, tables: Iterable[QualifiedName]
    ) -> dict[str, str]:
        """Describe which tables there are."""
        return describe_tables(schema)

    def write_baseline(
        self,
        connection: BaseDatabaseWrapper,
        schema: Schema,
        *,
        tables: Iterable[QualifiedName],
        sequences: Iterable[QualifiedName],
        excluded: frozenset[QualifiedName],
        lock_timeout: float,
        state: str = BASELINE,
        identity: DatabaseIdentity | None = None,
    ) -> Baseline:
        """Raise :class:`UnsupportedError`: this backend cannot copy and compare rows exactly."""
        raise UnsupportedError(
            f"A baseline is not supported on {connection.display_name}. Nothing was changed. Reset to empty, and make the rows "
            "that every test needs in a fixture."
        )

    def rewrite_baseline(
        self,
        connection: BaseDatabaseWrapper,
        baseline: Baseline,
        state: str = BASELINE,
        *,
        identity: DatabaseIdentity | None = None,
    ) -> Baseline:
        """Do nothing: there is no baseline."""
        return baseline

    def drop_baseline(self, connection: BaseDatabaseWrapper, *, identity: DatabaseIdentity | None = None) -> None:
        """Do nothing: there is no baseline."""


BACKEND = GenericBackend()
