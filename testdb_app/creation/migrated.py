"""Reset a development or test database to the rows of a fresh ``migrate``, with no baseline captured in it.

A scratch database on the same server has these rows: data migrations, permissions, content types, and the states of all
sequences. Its baseline is read there and carried over: the transaction of the reset makes temporary tables with the
rows, and the ordinary plan restores from them. So order, checks, triggers, retries and the guard are those of any reset.
Nothing stays in the database but the rows: no schema, no mark.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from django.db import DEFAULT_DB_ALIAS, connections
from django.db.migrations.executor import MigrationExecutor

from testdb_app.backends import get_backend
from testdb_app.backends.base import baseline_unsupported
from testdb_app.baseline_state import KIND_OF, Baseline, compare_shapes, migration_tables
from testdb_app.conf import MIGRATED, ResetOptions, get_settings
from testdb_app.creation.templates import migrated_database
from testdb_app.exceptions import BaselineError
from testdb_app.guard import check_may_mark_as_test, check_transaction_state
from testdb_app.report import ResetPreview, ResetReport
from testdb_app.resetter import (
    READING,
    ResetContext,
    Resetter,
    explained,
    make_context,
    read_context,
    read_state,
)
from testdb_app.schema import LeftOut, QualifiedName, Schema, list_some
from testdb_app.selection import ALWAYS_KEPT, Scope
from testdb_app.signals import clear_all_caches

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper


class MigratedResetter(Resetter):
    """Resets one database to the rows of a fresh ``migrate``.

    The parameters are those of :class:`~testdb_app.resetter.Resetter`. *say* is called with lines about the making of the
    scratch database. Without a template that takes as long as the migrations.

    The database must have the schema that ``migrate`` makes. Otherwise a reset and a plan raise
    :class:`~testdb_app.exceptions.BaselineError` with the differences: in migrations, tables, columns, types or sequences,
    or rows in tables that ``migrate`` does not make. Excluded tables, and those that are not included, may differ.
    The table of applied migrations stays as it is.
    """

    def __init__(
        self,
        using: str = DEFAULT_DB_ALIAS,
        *,
        include: Iterable[str] = (),
        exclude: Iterable[str] = (),
        strategy: str | None = None,
        reset_sequences: bool = True,
        allow_database: str | Iterable[str] = (),
        lock_timeout: float | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        super().__init__(
            using,
            include=include,
            exclude=exclude,
            strategy=strategy,
            reset_sequences=reset_sequences,
            allow_database=allow_database,
            lock_timeout=lock_timeout,
            once=True,
        )
        self.options = replace(self.options, to=MIGRATED)
        self._say = say
        self._state: MigratedState | None = None

    def reset(self, *, refit: bool = False) -> ResetReport:
        """Reset the database; see :meth:`Resetter.reset`. The guard is asked before the scratch database is made, too."""
        self._read_state_of_migrate()
        report = super().reset()
        assert self._state is not None
        restored = {table.name.name for table in report.tables if table.updated or table.inserted}
        frozen = [column for column in self._state.frozen if column.rpartition(".")[0] in restored]
        if not frozen:
            return report
        note = f"Rows were put back whose {', '.join(frozen)} is the time at which the template was made, not now."
        return replace(report, warning=" ".join(filter(None, [report.warning, note])))

    def plan(self) -> ResetPreview:
        """Return what :meth:`reset` would do; see :meth:`Resetter.plan`.

        The guard is asked here, too: a scratch database is made on the server.
        """
        self._read_state_of_migrate()
        return super().plan()

    def _read_state_of_migrate(self) -> None:
        """Read the rows of a fresh ``migrate``, once."""
        connection = self.connection
        check_transaction_state(connection, within_transaction=False)
        self.check_may_reset()
        if self._state is not None:
            return
        if not self.backend.supports_baseline:
            raise baseline_unsupported(connection)
        with explained(connection, READING):
            # Refuse what is certain before the migrations run, which may take minutes.
            refuse_differences(connection, list(_find_unapplied(connection)))
        with _scratch_database(connection, self._say) as (source, frozen):
            with explained(source, READING):
                state = MigratedState.read(source, self.options, frozen)
            with explained(connection, READING):
                baseline = state.make_context(connection, self.options).baseline
                assert baseline is not None
                self._state = replace(state, baseline=self.backend.carry_baseline(source, connection, baseline))

    def _read_context(self, *, refits: bool, before: Schema | None) -> ResetContext:
        assert self._state is not None
        return self._state.make_context(self.connection, self.options)


@contextmanager
def _scratch_database(
    connection: BaseDatabaseWrapper, say: Callable[[str], None]
) -> Iterator[tuple[BaseDatabaseWrapper, tuple[str, ...]]]:
    """Yield a connection to the scratch database, and the columns with times of its build.

    Nothing is done over *connection*: it may lead to a database in memory.
    """
    double = _connect(connection, str(connection.settings_dict["NAME"]))
    try:
        with _in_place(double), ExitStack() as stack:
            name, frozen = stack.enter_context(migrated_database(double, say=say))
            dropping = stack.pop_all()
        clear_all_caches()  # of rows that migrations have read there
        with dropping, closing(_connect(connection, name)) as source:
            yield source, frozen
    finally:
        double.close()


@contextmanager
def _in_place(double: BaseDatabaseWrapper) -> Iterator[None]:
    """Have Django use *double* for its alias: migrations name the alias."""
    connection = connections[double.alias]
    connections[double.alias] = double
    try:
        yield
    finally:
        connections[double.alias] = connection


def _connect(connection: BaseDatabaseWrapper, name: str) -> BaseDatabaseWrapper:
    """Return a connection of its own to the database *name* of the same server. No pool of the alias leads there."""
    source = connection.copy()
    source.settings_dict["NAME"] = name
    source.settings_dict["OPTIONS"].pop("pool", None)
    return source


def _find_unapplied(connection: BaseDatabaseWrapper) -> Iterator[str]:
    with get_backend(connection).catalog_first(connection):
        executor = MigrationExecutor(connection)
    for migration, _ in executor.migration_plan(executor.loader.graph.leaf_nodes()):
        yield f"migration {migration.app_label}.{migration.name} is not applied"


def _read_applied(connection: BaseDatabaseWrapper, schema: Schema) -> frozenset[str]:
    """Return the applied migrations. Django's own recorder asks the alias, not *connection*, which may be a copy."""
    applied: set[str] = set()
    tables = migration_tables(schema)
    for table in tables:
        where = f" in {table}" if len(tables) > 1 else ""
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT app, name FROM {get_backend(connection).data.quote(connection, table)}")
            applied |= {f"{app}.{name}{where}" for app, name in cursor.fetchall()}
    return frozenset(applied)


def refuse_differences(connection: BaseDatabaseWrapper, differences: list[str]) -> None:
    """Raise :class:`BaselineError` if the database of *connection* differs from one that ``migrate`` has just made."""
    if not differences:
        return
    listed = list_some(differences, between="; ")
    option = "" if connection.alias == DEFAULT_DB_ALIAS else f" --database {connection.alias}"
    raise BaselineError(
        f'Database "{connection.settings_dict["NAME"]}" (alias "{connection.alias}") is not as migrate makes it: {listed}. '
        f"Nothing was changed. Bring it to the state of this project's migrations: manage.py migrate{option}. Reverse other "
        "migrations on the branch that has them, and drop what migrate does not make, or leave its tables out: --exclude.",
        changes=differences,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MigratedState:
    """The state after a fresh ``migrate``: the baseline, and the tables, shape and migrations that it belongs to.

    ``shape`` describes all tables and sequences, as a baseline's does. ``frozen`` are the columns with times of the build
    of the template.
    """

    baseline: Baseline
    tables: frozenset[QualifiedName]
    shape: dict[str, str]
    applied: frozenset[str]
    frozen: tuple[str, ...]

    @classmethod
    def read(cls, source: BaseDatabaseWrapper, options: ResetOptions, frozen: tuple[str, ...]) -> MigratedState:
        """Read the state of the scratch database that *source* leads to. Captures its baseline if it has none."""
        backend = get_backend(source)
        # An option of the driver may lead elsewhere than the name.
        check_may_mark_as_test(backend.identify(source))
        schema = backend.read_schema(source)
        tables = frozenset(table.name for table in schema.tables)
        ordinary = {
            table.name for table in schema.tables if table.extension is None and table.name.name not in ALWAYS_KEPT
        }
        baseline = backend.read_baseline(source)
        if baseline is None or not baseline.excluded.isdisjoint(ordinary):
            # The settings may have excluded other tables when the template was made.
            everything = replace(options, include=(), exclude=get_settings().exclude, reset_sequences=True, to="empty")
            present = read_state(source, lock_timeout=options.lock_timeout)
            capture = read_context(source, everything).capture(present, options.lock_timeout)
            baseline = backend.write_baseline(source, capture)
        return cls(
            baseline=baseline,
            tables=tables,
            shape=backend.read_shape(source, schema, tables),
            applied=_read_applied(source, schema),
            frozen=frozen,
        )

    def make_context(self, connection: BaseDatabaseWrapper, options: ResetOptions) -> ResetContext:
        """Make the context of a reset of the database of *connection* to this state.

        Raises :class:`BaselineError` if the database has another schema.
        """
        backend = get_backend(connection)
        schema = backend.read_schema(connection)
        context = make_context(connection, options, schema, self.baseline)
        unknown = context.scope.tables - self.tables
        refuse_differences(connection, list(self._find_differences(connection, options, context, unknown)))
        scope = Scope(
            tables=context.scope.tables - unknown,
            sequences=frozenset(_without(schema, context.scope.sequences, unknown)),
            kept=tuple(sorted([*context.scope.kept, *(LeftOut(name=name, reason=_UNKNOWN) for name in unknown)])),
        )
        tables = {name: table for name, table in self.baseline.tables.items() if name in scope.tables}
        shape = backend.read_shape(connection, schema, tables)
        baseline = replace(self.baseline, tables=tables, shape=shape, migrations=migration_tables(schema))
        return replace(context, scope=scope, baseline=baseline)

    def _find_differences(
        self,
        connection: BaseDatabaseWrapper,
        options: ResetOptions,
        context: ResetContext,
        unknown: frozenset[QualifiedName],
    ) -> Iterator[str]:
        backend, schema, scope = get_backend(connection), context.schema, context.scope
        applied = _read_applied(connection, schema)
        yield from (f"migration {each} is not applied" for each in sorted(self.applied - applied))
        yield from (f"migration {each} is not of this project" for each in sorted(applied - self.applied))
        counts = backend.count_rows(connection, sorted(n for n in unknown if schema.by_name[n].stores_rows))
        yield from (f"table {name} has {rows} rows, and {_UNKNOWN}" for name, rows in counts.items() if rows)
        known = scope.tables - unknown
        compared = {f"{kind}table {name}" for name in known for kind in ("", KIND_OF)}
        compared |= {f"sequence {name}" for name in _without(schema, scope.sequences, unknown)}
        if not options.include:
            compared |= {f"table {name}" for name in self.tables - schema.by_name.keys()}
        shape = backend.read_shape(connection, schema, known)
        yield from compare_shapes(
            {what: text for what, text in self.shape.items() if what in compared},
            {what: text for what, text in shape.items() if what in compared},
        )


_UNKNOWN = "migrate does not make it"


def _without(
    schema: Schema, sequences: Iterable[QualifiedName], tables: frozenset[QualifiedName]
) -> Iterator[QualifiedName]:
    """Yield those of *sequences* that none of *tables* uses."""
    return (name for name in sequences if schema.sequences_by_name[name].tables.isdisjoint(tables))
