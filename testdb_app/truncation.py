"""Which tables are truncated rather than deleted from: large ones, those that are slow to delete from, those that a test left,
those where the server refuses DELETE because of a publication, and those whose rows another access method stores.

TRUNCATE takes all tables that reference the truncated ones along, empty or not; CASCADE would do the same silently.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from testdb_app.backends.base import Action
from testdb_app.exceptions import PublicationError, ResetError, StorageError
from testdb_app.naming import show_part
from testdb_app.schema import HEAP, ForeignKey, QualifiedName, Schema, Table, TableKind
from testdb_app.ties import events_of_action

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


def choose_new(
    schema: Schema, scope: frozenset[QualifiedName], written: frozenset[QualifiedName]
) -> frozenset[QualifiedName]:
    """Return those of *written*, tables that a test has left, to truncate: with what references them they are plain tables.

    A table keeps its pages after a DELETE, so that every later full scan would find it again, and delete from it again.
    """
    if schema.vendor != "postgresql":
        return frozenset()
    plain = frozenset(name for name in written if name in scope and _is_plain(schema.by_name[name]))
    chosen: set[QualifiedName] = set()
    for name in sorted(plain):
        closure = _truncation_closure(schema, {name})
        if closure <= plain:
            chosen |= closure
    return frozenset(chosen)


def _is_plain(table: Table) -> bool:
    """Whether a truncation does just what a DELETE of all rows does, and this role may do it."""
    return (
        table.owned
        and table.kind is TableKind.ORDINARY
        and not (table.inherits or table.triggers or table.rules or table.hides_rows)
        and table.extension is None
        and table.replica_identity is None
        and table.access_method == HEAP
    )


def find_refused(
    schema: Schema,
    scope: frozenset[QualifiedName],
    written: frozenset[QualifiedName],
    restorable: frozenset[QualifiedName],
) -> frozenset[QualifiedName]:
    """Return the tables of *written* that only TRUNCATE can empty, closed under references.

    A publication has the server refuse DELETE on them, or UPDATE, which puts back rows of *restorable* tables. Or another
    access method stores their rows, of which nothing is known but that it can truncate: of these every one of *scope* is
    returned, because nothing tells whether it was written to. Raises :class:`PublicationError` and :class:`StorageError` where
    TRUNCATE would need a table outside of *scope*, or a privilege that the role lacks.
    Cost: nothing where there is no such publication, and no such table.
    """
    if not (schema.refusing or schema.outside_heap):
        return frozenset()
    written |= schema.outside_heap & scope
    causes = _find_causes(schema)
    found: set[QualifiedName] = set()
    for name in sorted(written):
        events = {"DELETE", "UPDATE"} if name in restorable else {"DELETE"}
        cause = next((causes[name, event] for event in sorted(events) if (name, event) in causes), None)
        if cause is not None and name not in found:
            closure = _truncation_closure(schema, {name})
            _check_truncatable(schema, scope, name, cause, closure)
            found |= closure
    return frozenset(found)


def check_deletable(schema: Schema, names: Iterable[QualifiedName]) -> None:
    """Raise :class:`PublicationError` where a publication has the server refuse to delete rows of *names*, whatever is done."""
    causes = _find_causes(schema) if schema.refusing else {}
    for name in sorted(names):
        cause = causes.get((name, "DELETE"))
        if cause is not None and cause.replica_identity is not None:
            raise _refused_by_publication(name, cause, "")


def check_storage(schema: Schema, scope: frozenset[QualifiedName]) -> None:
    """Raise :class:`StorageError` for tables of *scope* whose rows an extension keeps where no reset reaches them for sure."""
    found = [table for table in schema.tables if table.stored_by is not None and table.name in scope]
    if found:
        raise StorageError(
            f"The rows of {', '.join(f'{table.name} ({table.stored_by})' for table in found[:5])}"
            f"{f' and {len(found) - 5} more tables' if len(found) > 5 else ''} are not in this server's own tables, and this "
            'version cannot put them back. Nothing was changed. Exclude them from resets, in TESTDB["EXCLUDE"], and empty '
            "them in the tests that write to them; or leave the tables undistributed and uncompressed in the test database.",
            tables=[str(table.name) for table in found],
        )


def _find_causes(schema: Schema) -> dict[tuple[QualifiedName, str], Table]:
    """Return the events that the server refuses by table, each with the published table because of which it does.

    A row is not deleted, or updated, either where a foreign key would have to delete or change rows of a table that refuses.
    """
    causes = {(table.name, event): table for table in schema.refusing for event in table.refused}
    causes |= {(name, event): schema.by_name[name] for name in schema.outside_heap for event in ("DELETE", "UPDATE")}
    keys: dict[QualifiedName, list[ForeignKey]] = {}
    for key in schema.foreign_keys:
        if key.on_delete.changes_rows or key.on_update.changes_rows:
            keys.setdefault(key.table, []).append(key)
    work = sorted(causes)
    while work:
        name, event = work.pop()
        table = schema.by_name[name]
        # The queries of foreign keys go to the partitioned table, and the server asks every partition then.
        reached_at: list[tuple[QualifiedName, str]] = [(above, event) for above in table.inherits if table.is_partition]
        for key in keys.get(name, ()):
            reached = {"DELETE"} if event in events_of_action(key, Action.DELETE) else set()
            if event == "UPDATE" and key.on_update.changes_rows:
                reached.add("UPDATE")
            reached_at += sorted((key.referenced, each) for each in reached)
        for above in reached_at:
            if above not in causes and above[0] in schema.by_name:
                causes[above] = causes[name, event]
                work.append(above)
    return causes


def _check_truncatable(
    schema: Schema,
    scope: frozenset[QualifiedName],
    name: QualifiedName,
    cause: Table,
    closure: frozenset[QualifiedName],
) -> None:
    tables = [schema.by_name[member] for member in sorted(closure)]
    staying = [str(table.name) for table in tables if table.name not in scope]
    lacking = [
        str(table.name)
        for table in tables
        if not table.owned and not (table.replica_identity is not None and table.replica_identity.may_truncate)
    ]
    if staying:
        why = f"it would need {', '.join(staying)} too, which stays and references it"
    elif lacking:
        why = f"the role may not TRUNCATE {', '.join(lacking)}"
    else:
        return
    if cause.access_method != HEAP:
        raise StorageError(
            f"The rows of {cause.name} are stored by the access method {show_part(cause.access_method)}, which can be trusted to "
            f"truncate a table and with no more. TRUNCATE cannot empty {name}: {why}. Nothing was changed. Reset these tables "
            f'together, as their owner, or exclude {name} from resets, in TESTDB["EXCLUDE"].',
            tables=[str(name)],
        )
    raise _refused_by_publication(name, cause, f" TRUNCATE does not help: {why}.")


def _refused_by_publication(name: QualifiedName, cause: Table, truncate: str) -> PublicationError:
    assert cause.replica_identity is not None
    publications = ", ".join(map(show_part, cause.replica_identity.publications))
    through = "" if cause.name == name else f", because a foreign key would write to {cause.name} with it"
    return PublicationError(
        f"The server refuses to delete rows of {name}{through}: a subscriber of the publication {publications} could not tell "
        f"the rows of {cause.name} apart.{truncate} Nothing was changed. Give {cause.name} a primary key "
        f"that the publication publishes, or ALTER TABLE {cause.name} REPLICA IDENTITY FULL and have all its columns published; "
        f'or DROP PUBLICATION {publications} in the test database; or exclude {name} from resets, in TESTDB["EXCLUDE"].',
        publications=list(cause.replica_identity.publications),
        tables=[str(name)],
    )


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
    # TRUNCATE minds also a key that is not enforced.
    unenforced = [key for key in schema.foreign_keys if not key.enforced]
    while work:
        name = work.pop()
        following = [key.table for key in schema.referencing.get(name, ())]
        following += [key.table for key in unenforced if key.referenced == name]
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
