"""Templates as databases of a PostgreSQL server.

A template is named ``testdb_tpl_<16 hex of its key>_<alias>``. Its document is the comment of the database, and it is shut
to connections. While it is built, its name ends in ``_building``: the name alone says what it is, and RENAME is the commit.
A clone gets its document, too, until its comment is that of a migration: "testdb clone" with the template and the OID.

All statements run on a connection of the driver to the database ``postgres``, outside of Django's. CREATEDB is enough.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from django.db import connections
from django.db.backends.base.base import NO_DB_ALIAS
from psycopg import sql

from testdb_app import _django_private as django_private
from testdb_app.creation.archive import (
    find_programs,
    prepare_folder,
    prune,
    read_documents,
    restore_archive,
    write_archive,
)
from testdb_app.creation.store import (
    BUILDING,
    PREFIX,
    OtherDatabase,
    OtherKind,
    PresentDatabase,
    TemplateStore,
    poll,
    unique_suffix,
)
from testdb_app.creation.template import DatabaseProperties, Template
from testdb_app.guard import find_configured, get_configured_name, vendor_of

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    from testdb_app.creation.store import Spare

SPARE, OLD = "testdb_next_", "testdb_old_"
_TEMPLATE, _CLONE = "testdb template ", "testdb clone "
_NAMES = {
    PREFIX: (_TEMPLATE, "half-built template"),
    SPARE: (_CLONE, "clone made ahead"),
    OLD: (_CLONE, "replaced test database"),
}
"""By the beginning of a name: the beginning of our mark, and what the database is."""
_AGREED = "postgres"
"""The database that all processes connect to: advisory locks hold inside of one."""
_LOCK_CLASS = 0x7E57DB
_FILE_COPY = frozenset({"pgroonga"})
"""Extensions with files of their own, which WAL_LOG does not copy."""
_LONGEST_NAME = 63
_LISTS = frozenset({"search_path", "temp_tablespaces", "local_preload_libraries", "session_preload_libraries"})
"""Settings that PostgreSQL stores as lists of identifiers, quoted where that is needed (GUC_LIST_QUOTE)."""
_ITEM = re.compile(r'"((?:[^"]|"")*)"|([^,\s"]+)')

_SERVER = """
SELECT pg_catalog.current_setting('server_version_num'), current_user::pg_catalog.text,
       coalesce(pg_catalog.pg_database_collation_actual_version(d.oid), ''),
       d.datcollate, d.datctype, pg_catalog.pg_encoding_to_char(d.encoding)
  FROM pg_catalog.pg_database d WHERE d.datname OPERATOR(pg_catalog.=) 'template1'
"""
_NAMED = """
SELECT d.datname::pg_catalog.text, o.owner, o.is_own,
       coalesce(CASE WHEN o.is_own THEN pg_catalog.shobj_description(d.oid, 'pg_database') END, '')
  FROM pg_catalog.pg_database d
 CROSS JOIN LATERAL (SELECT r.rolname::pg_catalog.text, r.rolname OPERATOR(pg_catalog.=) current_user
                       FROM pg_catalog.pg_roles r WHERE r.oid OPERATOR(pg_catalog.=) d.datdba) AS o(owner, is_own)
 WHERE EXISTS (SELECT FROM pg_catalog.unnest(%s::pg_catalog.text[]) AS p
                WHERE pg_catalog.starts_with(d.datname::pg_catalog.text, p))
 ORDER BY d.datname
"""
_DATABASE = """
SELECT d.oid::pg_catalog.int8, pg_catalog.shobj_description(d.oid, 'pg_database'),
       pg_catalog.pg_get_userbyid(d.datdba) OPERATOR(pg_catalog.=) current_user
  FROM pg_catalog.pg_database d WHERE d.datname OPERATOR(pg_catalog.=) %s::pg_catalog.name
"""
_IS_IN_USE = """
SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_stat_activity a WHERE a.datid OPERATOR(pg_catalog.=) %s::pg_catalog.oid)
"""
_CATALOGS = (
    *("aggregate", "attrdef", "attribute", "cast", "class", "collation", "constraint", "conversion", "default_acl"),
    *("description", "enum", "event_trigger", "extension", "foreign_data_wrapper", "foreign_server", "foreign_table"),
    *("index", "inherits", "language", "largeobject_metadata", "namespace", "opclass", "operator", "opfamily"),
    *("policy", "proc", "publication", "publication_namespace", "publication_rel", "range", "rewrite", "sequence"),
    *("statistic_ext", "transform", "trigger", "ts_config", "ts_config_map", "ts_dict", "type"),
)
# Each object that is made, changed or dropped changes the number of rows, or the sum of the transactions that wrote them.
_SCHEMA = "SELECT pg_catalog.md5(pg_catalog.concat_ws(' ', {}))".format(
    ", ".join(
        "(SELECT pg_catalog.concat_ws(':', pg_catalog.count(*), pg_catalog.sum(xmin::pg_catalog.text::pg_catalog.int8))"
        f" FROM pg_catalog.pg_{name})"
        for name in _CATALOGS
    )
)
_SETTINGS = """
SELECT coalesce(r.rolname, '')::pg_catalog.text, pg_catalog.split_part(c, '=', 1),
       pg_catalog.substr(c, pg_catalog.strpos(c, '=') OPERATOR(pg_catalog.+) 1)
  FROM pg_catalog.pg_database d
  JOIN pg_catalog.pg_db_role_setting s ON s.setdatabase OPERATOR(pg_catalog.=) d.oid
  LEFT JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) s.setrole
 CROSS JOIN pg_catalog.unnest(s.setconfig) WITH ORDINALITY AS u(c, position)
 WHERE d.datname OPERATOR(pg_catalog.=) %s::pg_catalog.name
 ORDER BY 1, u.position
"""
_GRANTS = """
SELECT d.datacl IS NOT NULL, d.datconnlimit, coalesce(r.rolname, '')::pg_catalog.text, a.privilege_type, a.is_grantable
  FROM pg_catalog.pg_database d
  LEFT JOIN pg_catalog.aclexplode(d.datacl) a ON true
  LEFT JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) a.grantee
 WHERE d.datname OPERATOR(pg_catalog.=) %s::pg_catalog.name
"""
_EXTENSIONS = """
SELECT e.name::pg_catalog.text, e.default_version
  FROM pg_catalog.pg_available_extensions e WHERE e.name OPERATOR(pg_catalog.=) ANY(%s)
"""
_TIMES = """
SELECT n.nspname::pg_catalog.text, c.relname::pg_catalog.text, a.attname::pg_catalog.text
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
  JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) c.oid
 WHERE c.relkind OPERATOR(pg_catalog.=) 'r'
   AND NOT pg_catalog.starts_with(n.nspname::pg_catalog.text, 'pg_')
   AND n.nspname OPERATOR(pg_catalog.<>) 'information_schema' AND n.nspname OPERATOR(pg_catalog.<>) 'testdb'
   AND c.relname OPERATOR(pg_catalog.<>) 'django_migrations'
   AND a.atttypid OPERATOR(pg_catalog.=) ANY ('{timestamptz,timestamp}'::pg_catalog.regtype[])
   AND pg_catalog.has_column_privilege(c.oid, a.attnum, 'SELECT')
   AND NOT a.attisdropped AND a.attnum OPERATOR(pg_catalog.>) 0 AND pg_catalog.pg_relation_size(c.oid) OPERATOR(pg_catalog.>) 0
 ORDER BY 1, 2, 3
"""
_IS_RECENT = """
SELECT 1 FROM {table} t
 WHERE t.{column} OPERATOR(pg_catalog.>) (pg_catalog.now() OPERATOR(pg_catalog.-) pg_catalog.make_interval(secs => {seconds}))
   AND t.{column} OPERATOR(pg_catalog.<=) pg_catalog.now() LIMIT 1
"""
_START = "SELECT EXTRACT(EPOCH FROM pg_catalog.pg_postmaster_start_time())::pg_catalog.text"
_HAS_UNLOGGED = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.relpersistence OPERATOR(pg_catalog.=) 'u')
"""
_COPIES_BY_CLONE = """
SELECT s.setting FROM pg_catalog.pg_settings s WHERE s.name OPERATOR(pg_catalog.=) 'file_copy_method'
"""
_ROLE = """
SELECT pg_catalog.pg_backend_pid(), current_user::pg_catalog.text,
       r.rolcreatedb OR r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname OPERATOR(pg_catalog.=) current_user
"""
_SIZE = """
SELECT coalesce(pg_catalog.sum(pg_catalog.pg_database_size(d.oid)), 0)
  FROM pg_catalog.pg_database d WHERE d.datname OPERATOR(pg_catalog.=) %s::pg_catalog.name
"""
_TIMEOUTS = {"statement_timeout": 15, "lock_timeout": 15, "idle_session_timeout": 15, "transaction_timeout": 17}
"""With the version of PostgreSQL from which they exist."""


class PostgreSQLStore(TemplateStore):
    """The templates on the server of *connection*."""

    supports_archives = True

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        super().__init__(connection)
        self.server: Any = connect_for_maintenance(connection)
        self._role = connection.settings_dict.get("OPTIONS", {}).get("assume_role")

    def close(self) -> None:
        """Close the connection."""
        self.server.close()

    def find_obstacle(self) -> str | None:
        """Return why templates cannot be kept: behind a pooler a session and its lock are not ours alone."""
        backend, role, may_create = self._execute(_ROLE).fetchone()
        if backend != self.server.info.backend_pid:
            return "the connection goes through a pooler, where no session has a lock of its own"
        return None if may_create else f'the role "{role}" may not create databases (ALTER ROLE … CREATEDB)'

    @property
    def place(self) -> str:
        """Return the server and the role, whose templates these are. One round trip."""
        info = self.server.info
        _, role, _ = self._execute(_ROLE).fetchone()
        return f'PostgreSQL {info.server_version // 10_000} at {info.host}:{info.port}, role "{role}"'

    def read_server_parts(self) -> dict[str, str]:
        """Return the major version, the role that will own all, and what a database takes over from template1."""
        version, role, collation, *locale = self._execute(_SERVER).fetchone()
        return {
            "PostgreSQL": str(int(version) // 10_000),
            "role": role,
            "collation version of the server": collation,
            "locale of the server": " ".join(locale),
        }

    def list_templates(self) -> list[Template]:
        """Return the templates that bear our name and our mark and belong to our role. One round trip."""
        found = [
            Template.from_document(name, mark.removeprefix(_TEMPLATE))
            for name, mark, why in self._list_named(PREFIX)
            if why is None and not name.endswith(BUILDING)
        ]
        return [template for template in found if template is not None]

    def list_others(self) -> list[OtherDatabase]:
        """Return the other databases with a name of ours. One round trip, and two for each that may be in use."""
        found = []
        for name, mark, why in self._list_named(*_NAMES):
            if why is not None:
                found.append(OtherDatabase(name, OtherKind.FOREIGN, why))
            elif name.startswith(PREFIX) and not name.endswith(BUILDING):
                if Template.from_document(name, mark.removeprefix(_TEMPLATE)) is None:
                    found.append(OtherDatabase(name, OtherKind.UNREADABLE, "template"))
            else:
                is_free = self._try_lock(name)
                if is_free:
                    self._unlock(name)
                what = next(what for prefix, (_, what) in _NAMES.items() if name.startswith(prefix))
                found.append(OtherDatabase(name, OtherKind.LEFT_OVER if is_free else OtherKind.HELD, what))
        return found

    def _list_named(self, *prefixes: str) -> Iterator[tuple[str, str, str | None]]:
        """Yield each database with such a name: the name, the comment, and why it is not ours, or None if it is."""
        for name, owner, is_own, comment in self._execute(_NAMED, [list(prefixes)]).fetchall():
            mark = next(mark for prefix, (mark, _) in _NAMES.items() if name.startswith(prefix))
            configured = find_configured(name)
            why = None
            if configured is not None:
                why = f'configured for alias "{configured}"'
            elif not is_own:
                why = f'belongs to role "{owner}"'
            elif not comment.startswith(mark):
                why = "no mark of testdb_app"
            yield name, comment, why

    def read_available_extensions(self, names: list[str]) -> dict[str, str]:
        """Return the versions that the server would install today. One round trip, if there are names."""
        return dict(self._execute(_EXTENSIONS, [names]).fetchall()) if names else {}

    def name_template(self, key: str) -> str:
        """Return the name of the template with that key."""
        return cut(f"{PREFIX}{key[:16]}_{self.connection.alias}").removesuffix(BUILDING)

    @contextmanager
    def lock(self, key: str, on_wait: Callable[[], None]) -> Iterator[None]:
        """Hold a session's advisory lock; see :meth:`TemplateStore.lock`."""
        poll(partial(self._try_lock, key), on_wait)
        try:
            yield
        finally:
            with suppress(psycopg.Error):  # a lost session has no lock
                self._unlock(key)

    def begin(self, template: Template) -> str:
        """Return a scratch name, and hold its lock until this store is closed: no collection takes it meanwhile."""
        scratch = f"{PREFIX}{template.static[:8]}_{unique_suffix()}{BUILDING}"
        self._try_lock(scratch)
        return scratch

    def creating(self, creation: Any, template: Template) -> AbstractContextManager[None]:
        """Make it with a mark in its comment; see :meth:`TemplateStore.creating`."""
        return django_private.databases_created_by(creation, partial(self._create, mark=_mark_of(template)))

    def _create(self, name: str, clause: str, *, mark: str) -> None:
        """Run CREATE DATABASE and write the comment *mark*.

        Both are sent before the first is answered. The server carries them out even if this process is killed meanwhile:
        an unmarked database would stay.
        """
        with self.server.pipeline():
            self._execute(f"CREATE DATABASE {sql.Identifier(name).as_string(self.server)} {clause}")
            self._comment(name, mark)

    def read_properties(self, scratch: str) -> DatabaseProperties:
        """Read the settings, the grants, the comment and the limit of connections. Three round trips."""
        grants = self._execute(_GRANTS, [scratch]).fetchall()
        _, comment, _ = self._execute(_DATABASE, [scratch]).fetchone()
        return DatabaseProperties(
            settings=tuple(self._execute(_SETTINGS, [scratch]).fetchall()),
            grants=tuple(row[2:] for row in grants) if grants[0][0] else None,
            comment=None if comment and comment.startswith(_TEMPLATE) else comment,
            connection_limit=grants[0][1],
        )

    def find_fault(self, template: Template) -> str | None:
        """Say so if unlogged tables may have been emptied; see :meth:`TemplateStore.find_fault`. At most one round trip."""
        if template.server_started and template.server_started != self._value(_START):
            return "the server was restarted, and may have emptied unlogged tables"
        return None

    def read_start_if_unlogged(self) -> str:
        """Read when the server started; see :meth:`TemplateStore.read_start_if_unlogged`. One round trip, or two."""
        with self.connection.cursor() as cursor:
            cursor.execute(_HAS_UNLOGGED)
            (has_unlogged,) = cursor.fetchone()
        return str(self._value(_START)) if has_unlogged else ""

    def read_extensions(self) -> dict[str, str]:
        """Return the extensions of the database that the connection leads to. Two round trips."""
        with self.connection.cursor() as cursor:
            cursor.execute("SELECT e.extname::pg_catalog.text FROM pg_catalog.pg_extension e")
            names = sorted(name for (name,) in cursor.fetchall())
        return self.read_available_extensions(names)

    def find_frozen(self, seconds: float) -> tuple[str, ...]:
        """Return the columns with times of the build; see :meth:`TemplateStore.find_frozen`. One query a column."""
        found = []
        with self.connection.cursor() as cursor:
            cursor.execute(_TIMES)
            for schema, table, column in cursor.fetchall():
                query = sql.SQL(_IS_RECENT).format(
                    column=sql.Identifier(column),
                    table=sql.Identifier(schema, table),
                    seconds=sql.Literal(seconds + 60),
                )
                cursor.execute(query.as_string(self.server), None)
                if cursor.fetchone():
                    found.append(f"{table}.{column}")
        return tuple(found)

    def commit(self, scratch: str, template: Template) -> None:
        """Shut it, write its document, and rename it; see :meth:`TemplateStore.commit`."""
        self._run("ALTER DATABASE {} ALLOW_CONNECTIONS false", scratch)
        self._comment(scratch, _mark_of(template))
        earlier = next((each for each in self.list_templates() if each.name == template.name), None)
        if earlier is not None and earlier.made < template.made - template.seconds:
            self.drop(earlier.name)
        try:
            self._rename(scratch, template.name)
        except psycopg.errors.DuplicateDatabase:
            self.drop(scratch)
        self._unlock(scratch)

    def drop(self, name: str) -> None:
        """Drop a database; see :meth:`TemplateStore.drop`."""
        with suppress(psycopg.errors.InvalidCatalogName):
            self._run("DROP DATABASE {}", name)

    def touch(self, template: Template) -> None:
        """Write the document again; see :meth:`TemplateStore.touch`."""
        with suppress(psycopg.errors.InternalError_, psycopg.errors.InvalidCatalogName):
            self._comment(template.name, _mark_of(template))

    def collect(self, template: Template) -> list[str]:
        """Drop templates, spares and half-built databases; see :meth:`TemplateStore.collect`."""
        dropped = []
        for each in self.unneeded(self.list_templates(), template.family):
            with suppress(psycopg.errors.ObjectInUse):  # somebody clones it now
                self.drop(each.name)
                dropped.append(each.name)
        self.drop_left_over()
        return dropped

    def drop_left_over(self) -> None:
        """Drop what no living process holds the lock of; see :meth:`TemplateStore.drop_left_over`."""
        for each in self.list_others():
            if each.kind is OtherKind.LEFT_OVER and self._try_lock(each.name):
                with suppress(psycopg.errors.ObjectInUse):
                    self.drop(each.name)
                self._unlock(each.name)

    # Archives ---------------------------------------------------------------------------------------------------------

    def list_archived(self, folder: Path, say: Callable[[str], None]) -> list[Template]:
        """Read the documents in *folder*; see :meth:`TemplateStore.list_archived`."""
        found = (
            Template.from_document(document.pop("name"), json.dumps(document))
            for document in read_documents(folder, say)
        )
        return [template for template in found if template is not None]

    def restore(self, scratch: str, template: Template, folder: Path, say: Callable[[str], None]) -> None:
        """Have pg_restore fill a new database; see :meth:`TemplateStore.restore`."""
        programs = find_programs(self._version)
        encoding = self.connection.settings_dict["TEST"].get("CHARSET")
        clause = f"ENCODING {sql.Literal(encoding).as_string(self.server)}" if encoding else ""
        self._create(scratch, f"TEMPLATE template0 {clause}", mark=_mark_of(template))
        parameters = maintenance_parameters(self.connection)
        restore_archive(
            folder,
            template.name,
            connection_parameters=parameters,
            database=scratch,
            programs=programs,
            say=say,
            role=self._role,
        )

    def archive(self, template: Template, folder: Path) -> None:
        """Have pg_dump write a clone of *template*, which is shut itself; see :meth:`TemplateStore.archive`."""
        programs = find_programs(self._version)
        prepare_folder(folder)
        spare = self.make_spare(template)
        try:
            write_archive(
                folder,
                template.name,
                json.loads(replace(template, server_started="").as_document()),
                connection_parameters=maintenance_parameters(self.connection),
                database=spare,
                programs=programs,
                role=self._role,
            )
            prune(folder)
        finally:
            self.drop(spare)

    @property
    def _version(self) -> int:
        return int(self.server.info.server_version) // 10_000

    # Clones -----------------------------------------------------------------------------------------------------------

    def waits_for_disk(self) -> bool:
        """Read ``fsync``: DROP DATABASE makes a checkpoint. One round trip."""
        return bool(self._value("SELECT pg_catalog.current_setting('fsync')::pg_catalog.bool"))

    def read_size(self, name: str) -> int:
        """Return the size of a database in bytes; 0 if it has just been dropped. One round trip."""
        return int(self._value(_SIZE, [name]))

    def find_present(self, name: str) -> PresentDatabase | None:
        """Read the comment of the database; see :meth:`TemplateStore.find_present`. One round trip, two for a clone."""
        given = self._read_mark(name)
        if given is None:
            return None
        if "template" not in given or "made" not in given:
            return PresentDatabase()
        is_in_use = bool(self._value(_IS_IN_USE, [given["oid"]]))
        return PresentDatabase(str(given["template"]), float(given["made"]), is_in_use)

    def note_schema(self, name: str) -> None:
        """Add what the catalogs hold to the mark of the clone; see :meth:`TemplateStore.note_schema`."""
        mark = self._read_mark(name)
        if mark:
            self._comment(cut(name), _CLONE + json.dumps({**mark, "schema": self._read_schema()}))

    def has_noted_schema(self, name: str) -> bool:
        """Compare the catalogs with the mark; see :meth:`TemplateStore.has_noted_schema`."""
        mark = self._read_mark(name)
        return mark is not None and mark.get("schema") == self._read_schema()

    def _read_schema(self) -> str:
        with self.connection.cursor() as cursor:
            cursor.execute(_SCHEMA)
            (found,) = cursor.fetchone()
        return str(found)

    def _read_mark(self, name: str) -> dict[str, Any] | None:
        """Return what the mark of a clone says, empty if it is no clone of this role's; None if there is no such database."""
        row = self._execute(_DATABASE, [cut(name)]).fetchone()
        if row is None:
            return None
        oid, comment, is_own = row
        if is_own and comment and comment.startswith(_CLONE):
            with suppress(ValueError, KeyError, TypeError):
                given: dict[str, Any] = json.loads(comment.removeprefix(_CLONE))
                # A dump with --create has the comment, too.
                if given["oid"] == oid:
                    return given
        return {}

    def clone(
        self,
        creation: Any,
        template: Template,
        name: str,
        *,
        spare: Spare | None,
        source: str = "",
        verbosity: int,
        replaces: bool,
    ) -> None:
        """Rename a clone, or have Django make one over a database that is not ours; see :meth:`TemplateStore.clone`."""
        present = self.find_present(name)
        if present is None or (present.is_clone and replaces):
            made = spare.name if spare is not None else self.make_spare(template, source)
            try:
                self._swap_in(made, name, template.properties.comment, replaces=present is not None)
                return
            except (psycopg.errors.ObjectInUse, psycopg.errors.DuplicateDatabase):
                self.drop(made)  # Django reports it
        # Django puts its parameters into the statement by Python's % operator, and passes none to the driver.
        clause = self._write_clause(template, source).as_string(self.server)
        django_private.create_as_django_does(creation, name, verbosity=verbosity, autoclobber=replaces, suffix=clause)
        self._complete(cut(name), template)
        if template.properties.comment is not None:
            self._comment(cut(name), template.properties.comment)

    def _write_clause(self, template: Template, source: str) -> sql.Composed:
        """Return what follows CREATE DATABASE for a clone of *template*, or of *source*, which was made from it.

        WAL_LOG is the safe choice: FILE_COPY needs two checkpoints, so on a disk it is three to eight times slower. It is
        used where the server clones files by reference, and for extensions whose files WAL_LOG does not copy.
        """
        row = self._execute(_COPIES_BY_CLONE).fetchone()
        copies = bool(_FILE_COPY & template.extensions.keys()) or (row is not None and row[0] == "clone")
        return sql.SQL("WITH TEMPLATE {} STRATEGY {}").format(
            sql.Identifier(cut(source or template.name)), sql.SQL("FILE_COPY" if copies else "WAL_LOG")
        )

    def make_spare(self, template: Template, source: str = "") -> str:
        """Make a clone under a spare name, with all that CREATE DATABASE does not copy; see :meth:`TemplateStore.make_spare`.

        The lock of the name is held until the store is closed.
        """
        spare = SPARE + unique_suffix()
        self._try_lock(spare)
        self._create(spare, self._write_clause(template, source).as_string(self.server), mark=_CLONE)
        self._complete(spare, template)
        return spare

    def _complete(self, name: str, template: Template) -> None:
        """Give the fresh clone *name* the settings and grants of *template*, and the mark of a clone."""
        given = template.properties
        oid, _, _ = self._execute(_DATABASE, [name]).fetchone()
        mark = _CLONE + json.dumps({"template": template.name, "made": template.made, "oid": oid})
        self._comment(name, mark)
        for role, setting, value in given.settings:
            target = sql.SQL("DATABASE {}").format(sql.Identifier(name))
            if role:
                target = sql.SQL("ROLE {} IN DATABASE {}").format(sql.Identifier(role), sql.Identifier(name))
            self._execute(_set(target, setting, value))
        if given.connection_limit != -1:
            limit = sql.Literal(given.connection_limit)
            self._execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {}").format(sql.Identifier(name), limit))
        if given.grants is not None:
            self._run("REVOKE ALL ON DATABASE {} FROM PUBLIC, CURRENT_USER", name)
            for grantee, privilege, may_grant in given.grants:
                self._execute(
                    sql.SQL("GRANT {} ON DATABASE {} TO {} {}").format(
                        sql.SQL(privilege),
                        sql.Identifier(name),
                        sql.Identifier(grantee) if grantee else sql.SQL("PUBLIC"),
                        sql.SQL("WITH GRANT OPTION" if may_grant else ""),
                    )
                )

    def _swap_in(self, spare: str, name: str, comment: str | None, *, replaces: bool) -> None:
        """Give *spare* the name of a test database, in one transaction with the rename of the one that had it.

        A *comment* of a migration replaces the mark no earlier.

        That one is dropped later, because DROP takes as long as a clone.
        """
        with self.server.transaction():
            if replaces:
                self._rename(cut(name), OLD + unique_suffix())
            self._rename(spare, cut(name))
            if comment is not None:
                self._comment(cut(name), comment)

    # ------------------------------------------------------------------------------------------------------------------

    def _execute(self, query: Any, parameters: Any = None) -> Any:
        return self.server.execute(query, parameters)

    def _value(self, query: str, parameters: Any = None) -> Any:
        (value,) = self._execute(query, parameters).fetchone()
        return value

    def _run(self, statement: str, *names: str) -> None:
        self._execute(sql.SQL(statement).format(*map(sql.Identifier, names)))

    def _comment(self, name: str, text: str) -> None:
        self._execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(sql.Identifier(name), sql.Literal(text)))

    def _rename(self, name: str, to: str) -> None:
        self._run("ALTER DATABASE {} RENAME TO {}", name, to)

    def _try_lock(self, key: str) -> bool:
        query = "SELECT pg_catalog.pg_try_advisory_lock(%s::int4, pg_catalog.hashtext(%s))"
        return bool(self._value(query, [_LOCK_CLASS, key]))

    def _unlock(self, key: str) -> None:
        self._execute("SELECT pg_catalog.pg_advisory_unlock(%s::int4, pg_catalog.hashtext(%s))", [_LOCK_CLASS, key])


def _mark_of(template: Template) -> str:
    return _TEMPLATE + template.as_document()


def cut(name: str) -> str:
    """Return the name as PostgreSQL cuts it, at 63 bytes."""
    return name.encode()[:_LONGEST_NAME].decode(errors="ignore")


def _set(target: Any, setting: str, value: str) -> Any:
    if setting.lower() in _LISTS:
        found = [quoted.replace('""', '"') if quoted else plain for quoted, plain in _ITEM.findall(value)]
        written = sql.SQL(", ").join(map(sql.Literal, found)) if found else sql.Literal("")
    else:
        written = sql.Literal(value)
    name = sql.SQL(".").join(map(sql.Identifier, setting.split(".")))
    return sql.SQL("ALTER {} SET {} TO {}").format(target, name, written)


def maintenance_parameters(connection: BaseDatabaseWrapper) -> dict[str, Any]:
    """Return what the settings say of a connection, as parameters of the driver, for the database ``postgres``."""
    # Not None as in Django's own: that drops the service with its host.
    wrapper: Any = type(connection)({**connection.settings_dict, "NAME": _AGREED}, alias=NO_DB_ALIAS)
    parameters = {**wrapper.get_connection_params(), "dbname": _AGREED}
    for own in ("context", "cursor_factory", "prepare_threshold"):
        parameters.pop(own, None)
    return parameters


def connect_for_maintenance(connection: BaseDatabaseWrapper) -> psycopg.Connection[Any]:
    """Connect to ``postgres``, by the driver, with what the settings of *connection* say. All processes must agree on it.

    Where that database does not exist, the first one that an alias has configured on PostgreSQL takes its place, as in
    Django.
    """
    parameters = maintenance_parameters(connection)
    try:
        server = psycopg.connect(**parameters, autocommit=True)
    except psycopg.OperationalError:
        configured = (
            get_configured_name(alias)
            for alias in connections
            if vendor_of(connections.settings[alias]) == "postgresql"
        )
        fallback = next((name for name in configured if name and name != _AGREED), None)
        if fallback is None:
            raise
        server = psycopg.connect(**{**parameters, "dbname": fallback}, autocommit=True)
    # A clone takes as long as it takes, and a build longer than a session may be idle. A pooler's session is not ours.
    if server.execute("SELECT pg_catalog.pg_backend_pid()").fetchone() == (server.info.backend_pid,):
        known = [name for name, since in _TIMEOUTS.items() if server.info.server_version >= since * 10_000]
        server.execute("; ".join(f"SET {name} TO 0" for name in known))
    role = connection.settings_dict.get("OPTIONS", {}).get("assume_role")
    if role:
        server.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))
    return server
