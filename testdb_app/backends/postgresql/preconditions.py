"""Write the SQL that proves, inside a transaction, that it may read or write; and explain its refusals.

A proof is one query. If a condition does not hold, the query fails, and its transaction with it. The text qualifies all
operators and types, because it also runs under the user's ``search_path``. It relies on no setting of an earlier
transaction, because behind a pool that was another session. A proof has two parts:

**The database is the one that the guard checked.** A pool in transaction mode, a proxy or a failover may lead each
transaction to another server. Name and OID distinguish the database from others in its cluster, and from its copies
there. The system identifier distinguishes the cluster. The start of the server distinguishes it from a physical copy that
was started since.

**The schema** ``testdb`` **is the app's own.** The owner of a schema, or of a table in it, may put a view or a trigger
there. That code runs as the role that reads or writes. So both must belong to this role, to a superuser, or to a role
whose privileges this role has. If this role is a superuser itself, the last case does not count. Once that holds, nobody
else can replace them, because only an owner may drop.

:mod:`testdb_app.backends.postgresql.operations` puts the proof into the script of a reset.
:mod:`testdb_app.guard` has the rules that are checked first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from testdb_app.backends.base import OWN_SCHEMA, DatabaseIdentity
from testdb_app.backends.postgresql.sql import qualify, quote_literal
from testdb_app.exceptions import UnsafeDatabaseError

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

_BEGIN, _END = "testdb_app refuses: ", " (testdb_app)"
"""A failing proof casts a text between these two to a number. So the server's error contains it, in any language."""
_NOT_A_NUMBER = "22P02"
CHANGED_COPY = "testdb_app finds damage: "
"""The beginning of the text that :func:`counted_or_changed` casts to a number."""

# Whether this role ("me") may trust what the role "o" owns.
_TRUSTED = "(o.oid = me.oid OR o.rolsuper OR (NOT me.rolsuper AND pg_catalog.pg_has_role(o.oid, 'USAGE')))"
_ME = "(SELECT r.oid, r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = current_user) me"
_OWN_NAME = "(protected|test|(baseline|flushed)(_[0-9]+)?)"

# Columns: fault. Rows: the faults of the schema and of the relations in it that the app reads or writes; none without it.
_FAULTS = """
SELECT pg_catalog.format('the schema testdb belongs to the role %I', o.rolname) AS fault
  FROM pg_catalog.pg_namespace n
  JOIN pg_catalog.pg_roles o ON o.oid = n.nspowner
 CROSS JOIN {me}
 WHERE n.nspname = 'testdb' AND NOT {trusted}
 UNION ALL
SELECT pg_catalog.format('testdb.%I %s', f.relname, f.what)
  FROM (SELECT c.relname,
               CASE WHEN NOT {trusted} THEN pg_catalog.format('belongs to the role %I', o.rolname)
                    WHEN c.relkind <> 'r' THEN 'is no table'
                    WHEN c.relhasrules THEN 'has a rule'
                    WHEN c.relhastriggers THEN 'has a trigger'
                    WHEN c.relrowsecurity THEN 'has row security'
                    WHEN c.relispartition OR c.relhassubclass
                         OR EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid)
                    THEN 'has a parent or a child'
                    WHEN EXISTS (SELECT FROM pg_catalog.pg_depend d
                                  WHERE d.refclassid = 'pg_catalog.pg_proc'::regclass
                                    AND (d.classid = 'pg_catalog.pg_attrdef'::regclass
                                         AND d.objid = ANY (ARRAY(SELECT a.oid FROM pg_catalog.pg_attrdef a
                                                                   WHERE a.adrelid = c.oid))
                                         OR d.classid = 'pg_catalog.pg_constraint'::regclass
                                         AND d.objid = ANY (ARRAY(SELECT k.oid FROM pg_catalog.pg_constraint k
                                                                   WHERE k.conrelid = c.oid))))
                    THEN 'calls a function' END AS what
          FROM pg_catalog.pg_namespace n
          JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid
          JOIN pg_catalog.pg_roles o ON o.oid = c.relowner
         CROSS JOIN {me}
         WHERE n.nspname = 'testdb' AND {which}
        OFFSET 0) f
 WHERE f.what IS NOT NULL
"""
_ALL = f"(c.relname ~ '^{_OWN_NAME}$' OR (me.rolsuper AND c.relkind = ANY ('{{r,p,v,m,f,S}}') AND NOT {_TRUSTED}))"


def own_faults(names: Iterable[str] | None = None) -> str:
    """Write the query that lists the faults of the schema ``testdb`` and its relations *names*, as a text or NULL.

    Without *names* it checks every relation that the app could read there, which takes a scan of ``pg_class``.
    """
    which = _ALL
    if names is not None:
        which = f"c.relname = ANY ('{{{','.join(sorted(names))}}}')"
    faults = _FAULTS.format(me=_ME, trusted=_TRUSTED, which=which)
    return qualify(f"SELECT pg_catalog.string_agg(pg_catalog.concat('[own-schema] ', f.fault), '; ') FROM ({faults}) f")


def _refuse(reason: str) -> str:
    """Write a query that fails with the text that the query *reason* returns, unless it returns NULL or no row."""
    return f"SELECT pg_catalog.concat('{_BEGIN}', w.why, '{_END}')::integer FROM ({reason}) w (why) WHERE w.why IS NOT NULL"


def prove_own_schema(names: Iterable[str] | None = None) -> str:
    """Write the query that fails if :func:`own_faults` finds a fault."""
    return _refuse(own_faults(names))


def counted_or_changed(copy: str, name: str, rows: int, value: str) -> str:
    """Write *value*, a number, as an expression that fails if the table *copy* has a number of rows other than *rows*.

    *name* is the copy's name as a literal. The check is in the statement that reads the copy, so that an empty copy
    empties no table.
    """
    count = f"(SELECT pg_catalog.count(*) FROM {copy})"
    return (
        f"CASE WHEN {count} OPERATOR(pg_catalog.=) {rows} THEN {value} "
        f"ELSE pg_catalog.concat('{CHANGED_COPY}', {name}, ' has ', {count}, ' rows instead of {rows}{_END}')::bigint END"
    )


def find_changed_copy(error: BaseException) -> str | None:
    """Return what is wrong with a copy if *error*, one of Django's, comes from :func:`counted_or_changed`; otherwise None."""
    return _find(error, CHANGED_COPY)


def find_refusal(error: BaseException) -> str | None:
    """Return what did not hold if *error*, one of Django's, comes from a proof; otherwise None."""
    return _find(error, _BEGIN)


def _find(error: BaseException, beginning: str) -> str | None:
    if getattr(error.__cause__, "sqlstate", None) != _NOT_A_NUMBER:
        return None
    _, found, text = str(error).partition(beginning)
    return text.rpartition(_END)[0] if found else None


def explain_refusal(connection: BaseDatabaseWrapper, reason: str, act: str = "reset") -> UnsafeDatabaseError:
    """Return the package's error for the conditions in *reason*, which did not hold; *act* is the verb in its message."""
    name = str(connection.settings_dict["NAME"])
    # The tag of the first reason names the rule, in the same words as the guard's rules.
    tag = _TAG.match(reason)
    rule = tag.group(1) if tag else "elsewhere"
    return UnsafeDatabaseError(
        f'Refusing to {act} database "{name}" (alias "{connection.alias}"): {_TAG.sub("", reason)}. Nothing was changed. '
        + _REMEDIES[rule],
        rule=rule,
        database=name,
        alias=connection.alias,
    )


_TAG = re.compile(r"\[(elsewhere|standby|protected|own-schema)\] ")
_REMEDIES = {
    "elsewhere": (
        "The connection led elsewhere between two transactions. The cause may be a connection pool in transaction mode, a proxy "
        "or a failover. Connect to the server directly, or wait until it leads to one server again, and repeat."
    ),
    "standby": "Connect to the test server itself.",
    "protected": "The database was marked meanwhile. If that is wrong, remove the mark: resetdb --unmark-protected.",
    "own-schema": (
        f"The schema {OWN_SCHEMA} is the app's own: code of others there would run with this role's privileges. Connect as the "
        f"role that created it. Or, if nobody needs it, run DROP SCHEMA {OWN_SCHEMA} CASCADE as its owner, and capture the "
        "baseline again."
    ),
}

# OIDs of the roles whose schema and relations this role may read and write: its own, and those that own them and may be
# trusted.
OWNERS = f"""
SELECT ARRAY(SELECT o.oid::bigint
               FROM pg_catalog.pg_roles o
              CROSS JOIN {_ME}
              WHERE {_TRUSTED}
                AND (o.oid = me.oid
                     OR EXISTS (SELECT FROM pg_catalog.pg_namespace n WHERE n.nspname = 'testdb' AND n.nspowner = o.oid)
                     OR EXISTS (SELECT FROM pg_catalog.pg_namespace n
                                  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid
                                 WHERE n.nspname = 'testdb' AND c.relowner = o.oid))
              ORDER BY o.oid)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Precondition:
    """The conditions under which a transaction may write: it is in the database that the guard checked, and still may.

    - ``owners``: the OIDs of the roles that :data:`OWNERS` found, so that they are not read again; None if not read.
    - ``reads``: the relations of the schema ``testdb`` that the transaction reads or writes; None for any.
    - ``may_be_protected``: it may write to a protected database, to set or remove the mark.
    """

    database: str
    oid: int
    system_identifier: str
    server_started: str
    owners: tuple[int, ...] | None = None
    reads: tuple[str, ...] | None = ()
    may_be_protected: bool = False

    @classmethod
    def of(
        cls,
        identity: DatabaseIdentity,
        *,
        owners: Iterable[int] | None = None,
        reads: Iterable[str] | None = (),
        may_be_protected: bool = False,
    ) -> Precondition:
        """Return the precondition for writing where *identity* was read."""
        return cls(
            database=identity.name,
            oid=identity.oid,
            system_identifier=identity.system_identifier,
            server_started=identity.server_started,
            owners=None if owners is None else tuple(sorted(owners)),
            reads=None if reads is None else tuple(sorted(set(reads))),
            may_be_protected=may_be_protected,
        )

    def prove(self) -> str:
        """Write the query that fails, with the conditions that do not hold, if the transaction must not write."""
        cases = [
            f"CASE WHEN {holds} THEN NULL ELSE {fault} END"
            for holds, fault in (
                (self._is_database(), _ELSEWHERE),
                (self._is_oid(), "'[elsewhere] the connection leads to another database of this name'"),
                (self._is_cluster(), "'[elsewhere] the connection leads to another server'"),
                (self._is_start(), "'[elsewhere] the server is another one, or has been started again'"),
                (_IS_PRIMARY, "'[standby] the server is a standby'"),
                ("" if self.may_be_protected else _IS_UNPROTECTED, "'[protected] it is marked as protected'"),
            )
            if holds
        ]
        found = f"pg_catalog.concat_ws('; ', {', '.join((*cases, *self._own_faults()))})"
        return _refuse(f"SELECT w.why FROM (SELECT {found} AS why OFFSET 0) w WHERE w.why OPERATOR(pg_catalog.<>) ''")

    def holds(self) -> str:
        """Write the fastest expression that is true if the transaction is in that database, for a prepared statement.

        It leaves out what the caller of it proves by the counters: that no catalog was written, so nobody has protected the
        database or replaced the schema since; and the start of the server, which it compares with other values.
        """
        terms = (self._is_database(), self._is_oid(), self._is_cluster(), _IS_PRIMARY)
        return f"({' AND '.join(term for term in terms if term)})"

    def _own_faults(self) -> Iterator[str]:
        if self.owners is None or self.reads is None:
            yield f"({own_faults(self.reads)})"
            return
        among = f"ANY ('{{{','.join(map(str, self.owners))}}}')"
        yield qualify(
            "(SELECT pg_catalog.concat('[own-schema] the schema testdb belongs to the role ', "
            "pg_catalog.pg_get_userbyid(n.nspowner)) "
            f"FROM pg_catalog.pg_namespace n WHERE n.nspname = 'testdb' AND NOT n.nspowner = {among})"
        )
        if self.reads:
            yield qualify(
                "(SELECT pg_catalog.string_agg(pg_catalog.format('[own-schema] testdb.%I is not as the app has made it', "
                "c.relname), '; ') FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid "
                f"WHERE n.nspname = 'testdb' AND c.relname = ANY ('{{{','.join(self.reads)}}}') "
                f"AND (c.relkind <> 'r' OR NOT c.relowner = {among} OR c.relhasrules OR c.relhastriggers OR c.relrowsecurity "
                "OR c.relispartition OR c.relhassubclass))"
            )

    def _is_database(self) -> str:
        return f"pg_catalog.current_database() OPERATOR(pg_catalog.=) {quote_literal(self.database)}"

    def _is_oid(self) -> str:
        # The files of a database lie in a folder named by its OID. This function costs a third of a lookup in pg_database.
        folder = "pg_catalog.split_part(pg_catalog.pg_relation_filepath('pg_catalog.pg_class'::pg_catalog.regclass), '/', -2)"
        return f"{folder} OPERATOR(pg_catalog.=) '{self.oid}'"

    def _is_cluster(self) -> str:
        if not self.system_identifier:
            return ""
        found = "(pg_catalog.pg_control_system()).system_identifier"
        return f"{found} OPERATOR(pg_catalog.=) {int(self.system_identifier)}::bigint"

    def _is_start(self) -> str:
        started = "EXTRACT(EPOCH FROM pg_catalog.pg_postmaster_start_time())::pg_catalog.text"
        return f"{started} OPERATOR(pg_catalog.=) {quote_literal(self.server_started)}"


_ELSEWHERE = "pg_catalog.concat('[elsewhere] the connection leads to database \"', pg_catalog.current_database(), '\"')"
_IS_PRIMARY = "NOT pg_catalog.pg_is_in_recovery()"
_IS_UNPROTECTED = qualify("""NOT EXISTS (SELECT FROM pg_catalog.pg_class c
                   JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                  WHERE n.nspname = 'testdb' AND c.relname = 'protected')""")
