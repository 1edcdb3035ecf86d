"""What must hold in the very transaction that reads or writes: SQL that proves it there, and what its refusals mean.

A proof is one query. Where something does not hold, it fails, and with it everything that follows in its transaction. Its text
names its operators and types in full, as it runs under the user's ``search_path``, too.

**The schema** ``testdb`` **is the app's own.** Whoever owns a schema, or a table in it, may put a view or a trigger there, and
that code runs as the role that reads or writes. So both must belong to this role, to a superuser, or, unless this role is a
superuser itself, to a role whose privileges it has. Who can no longer be replaced once that is so: only an owner may drop.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from testdb_app.backends.base import OWN_SCHEMA
from testdb_app.backends.postgresql.quoting import qualify
from testdb_app.exceptions import UnsafeDatabaseError

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

_REFUSAL = "testdb_app refuses: "
"""How the text begins that a failing proof tries to read as a number: so the server's error has it, in any language."""
_NOT_A_NUMBER = "22P02"

# Whether this role may trust what the role "o" owns: "me" is this role.
_TRUSTED = "(o.oid = me.oid OR o.rolsuper OR (NOT me.rolsuper AND pg_catalog.pg_has_role(o.oid, 'USAGE')))"
_ME = "(SELECT r.oid, r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = current_user) me"
_OWN_NAME = "(protected|test|(baseline|flushed)(_[0-9]+)?)"

# fault, of the schema and of the relations in it that the app reads or writes; none where there is no such schema
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
    """Write the query of what is wrong with the schema ``testdb`` and the relations *names* in it: a text, or NULL.

    Without *names* it looks at all that the app could read there, and takes a scan of ``pg_class``.
    """
    which = _ALL
    if names is not None:
        which = f"c.relname = ANY ('{{{','.join(sorted(names))}}}')"
    faults = _FAULTS.format(me=_ME, trusted=_TRUSTED, which=which)
    return qualify(f"SELECT pg_catalog.string_agg(f.fault, '; ') FROM ({faults}) f")


def refuse(reason: str) -> str:
    """Write a query that fails, with the text that the query *reason* finds, unless that finds NULL."""
    return qualify(
        f"SELECT pg_catalog.concat('{_REFUSAL}', w.why)::integer FROM ({reason}) w (why) WHERE w.why IS NOT NULL"
    )


def prove_own_schema(names: Iterable[str] | None = None) -> str:
    """Write the query that fails where :func:`own_faults` finds a fault."""
    return refuse(own_faults(names))


def find_refusal(error: BaseException) -> str | None:
    """Return what did not hold, if *error*, one of Django's, is that of a proof; else None."""
    if getattr(error.__cause__, "sqlstate", None) != _NOT_A_NUMBER:
        return None
    _, found, reason = str(error).strip().split("\n")[0].partition(_REFUSAL)
    return reason.rstrip().rstrip('"') if found else None


def explain_refusal(connection: BaseDatabaseWrapper, reason: str, act: str = "reset") -> UnsafeDatabaseError:
    """Return the package's error for what did not hold."""
    name = str(connection.settings_dict["NAME"])
    return UnsafeDatabaseError(
        f'Refusing to {act} database "{name}" (alias "{connection.alias}"): {reason}. Nothing was changed. The schema '
        f"{OWN_SCHEMA} is the app's own: what others put there would run with this role's privileges. Connect as the role that "
        f"made it. Or, if nobody needs it, run DROP SCHEMA {OWN_SCHEMA} CASCADE as its owner, and capture the baseline anew.",
        rule="own-schema",
        database=name,
        alias=connection.alias,
    )
