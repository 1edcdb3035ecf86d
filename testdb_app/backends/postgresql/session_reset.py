"""Keep PostgreSQL sessions open between tests, if they are proved to be as good as new ones.

:func:`renew_session` restores what can be restored, in the round trip of the reset itself: settings, role, temporary
tables, cursors, LISTEN, advisory locks, the last values of sequences. ``DISCARD ALL`` would also drop the statements that
drivers prepare. The settings are those of right after connecting. For the rest, the session is closed unless all of these
hold:

- The wrapper is one of Django's own classes, unpatched, without further attributes and execute wrappers. Any other may
  remember what it has set (:func:`_is_djangos`).
- Nothing else opens sessions: no handler of ``connection_created`` but Django's, no pool.
- Each statement that ran since then leaves nothing, or only what is restored (:func:`.judge_statement`).
- No message is unread, and the driver's connection holds what it held at first
  (:class:`~testdb_app.backends.postgresql._psycopg_private.DriverState`).
- The settings and the defaults of roles and databases would open a new session in the same way.

``TESTDB["KEEP_CONNECTIONS"]`` chooses: "always" omits the checks of the wrapper, handlers and statements; "never" closes.

**Statements and functions with state.** PostgreSQL cannot undo a custom setting (``SET app.tenant = '1'`` reads as ''
afterwards, and no longer as NULL), the seed of ``setseed()``, a loaded library, a connection of dblink, or the
dictionaries of PL/Python and PL/Perl. It does not show them either: ``pg_settings`` omits custom settings. So a session
is judged by the statements sent:

- :func:`.judge_statement` reads a statement. It accepts statements that leave nothing, or only what the renewal undoes.
  Any other is a reason to close the session.
- :class:`FunctionsWithState` holds the functions that may leave state. These are the volatile functions of PostgreSQL
  that are not known to be harmless. Of the database's own, they are those whose bodies contain one, or a statement built
  at run time, or cannot be read. A session is closed if a statement names one of these, or if the schema itself calls one
  (trigger, default, policy, view, check).

A statement that is not understood counts as state: the price is a new connection. The functions are read again only after
the counters of the catalogs have moved.

Sources: the documentation of DISCARD, and GUC_NO_RESET_ALL in guc_tables.c for the role and the seed.
"""

from __future__ import annotations

import contextlib
import logging
import operator
import re
import select
import sys
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import django
from django.db import DatabaseError, InterfaceError
from django.db.backends import utils
from django.db.backends.signals import connection_created
from django.utils.functional import cached_property

from testdb_app._django_private import ATTRIBUTES_OF_WRAPPERS
from testdb_app.backends.postgresql import _psycopg_private as driver
from testdb_app.backends.postgresql import open_sessions
from testdb_app.backends.postgresql.connection import Command, is_idle, pipeline_of, run_sql, server_version
from testdb_app.backends.postgresql.counters import DATABASE_OID, REPORTED, counting_since, writes
from testdb_app.backends.postgresql.open_sessions import (
    ServerSession,
    is_as_opened_now,
    observe_from_now_on,
    read_configuration,
    session_of,
)
from testdb_app.backends.postgresql.operations import FORGET_SEQUENCES
from testdb_app.backends.postgresql.queries import rows_of
from testdb_app.backends.postgresql.sent_statements import (
    BRINGS_STATE,
    CUSTOM_SETTING,
    DO_BLOCK,
    RUNS_TEXT,
    SEED,
    UNREADABLE,
    Verdict,
    without_texts,
    words_of,
)
from testdb_app.backends.postgresql.sql import qualify, quote_literal

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

logger = logging.getLogger("testdb_app")

# name, setting, of those that RESET ALL would change
_SETTINGS = qualify("""
SELECT s.name::text, s.setting
  FROM pg_catalog.pg_settings s
 WHERE s.source = 'session'
 ORDER BY s.name
""")
# Whether the session has something right after connecting that its settings do not show.
_POSSESSIONS = qualify("""
SELECT pg_catalog.pg_my_temp_schema() <> 0
       OR EXISTS (SELECT FROM pg_catalog.pg_prepared_statements p WHERE p.from_sql)
       OR EXISTS (SELECT FROM pg_catalog.pg_listening_channels())
       OR EXISTS (SELECT FROM pg_catalog.pg_locks l
                   WHERE l.locktype = 'advisory' AND l.pid = pg_catalog.pg_backend_pid())
""")
# whether SQL has prepared statements, whether there is a schema of temporary tables, which stays in the search path
_LEFT = qualify("""
       EXISTS (SELECT FROM pg_catalog.pg_prepared_statements p WHERE p.from_sql),
       pg_catalog.pg_my_temp_schema() <> 0
""")
_AS_NEW = (
    "CLOSE ALL",
    "SET SESSION AUTHORIZATION DEFAULT",
    "RESET ALL",
    "RESET ROLE",
    "UNLISTEN *",
    "DISCARD TEMP",
    FORGET_SEQUENCES,
)
_OWN_CLASSES = ("django.db.backends.postgresql.base", "django.contrib.gis.db.backends.postgis.base")
_FOLDER = str(Path(django.__file__).parent)
_FIRST_USE = "close_if_health_check_failed"
_UNJUDGED = Verdict('it was kept without a judgement of what it ran (KEEP_CONNECTIONS = "always")')

_Key = tuple[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class _Renewal:
    """A renewal that was begun: what ran in the session before, and whether that counts."""

    verdicts: set[Verdict]
    vouched: bool


@dataclass(frozen=True, slots=True, eq=False)
class _AsNew:
    """The conditions of an as-new session of an alias: how it was opened, commands, the contents of the driver's connection."""

    configuration: object
    commands: Sequence[Command]
    driver: driver.DriverState
    defaults: str | None


_of_alias: dict[_Key, _AsNew] = {}
# By the driver's connection.
_renewals: weakref.WeakKeyDictionary[Any, _Renewal] = weakref.WeakKeyDictionary()
_functions: dict[_Key, FunctionsWithState] = {}
# Aliases whose new connections have more than can be restored.
_unknowable: weakref.WeakSet[BaseDatabaseWrapper] = weakref.WeakSet()
# By class, its attributes at the time when they were found to be Django's own.
_unpatched: dict[type[Any], tuple[Any, ...]] = {}
# By class, the attributes that a wrapper of it has.
_expected: dict[type[Any], frozenset[str]] = {}


def renew_session(connection: BaseDatabaseWrapper, *, mode: str) -> bool:
    """Close the session of *connection*, or begin to make it as good as new. No transaction may be open.

    *mode* is ``TESTDB["KEEP_CONNECTIONS"]``. Returns whether the session that *connection* has after the reset may stay
    open for the next test, as far as it can be told by now. What restores the session goes with the first message of the reset.
    Opens a new connection the first time.
    """
    observe_from_now_on()
    vouched = mode == "always" and not _has_pool(connection)
    may_keep = vouched or _is_provable(connection)
    raw = connection.connection
    if raw is not None and may_keep and not driver.is_in_use(raw):
        session = session_of(connection)
        reason = _begin(connection, session, vouched=vouched) if session is not None else "it was opened earlier"
        if reason is None:
            return mode != "never"
        logger.debug("Connection %s: the session is closed: %s", connection.alias, reason)
    connection.close()
    if may_keep and connection not in _unknowable and _key(connection) not in _of_alias and raw is not None:
        _open_and_remember(connection)
    return may_keep and mode != "never" and connection not in _unknowable


def release_session(connection: BaseDatabaseWrapper, *, keep: bool) -> None:
    """Close *connection* after a reset unless *keep*, from :func:`renew_session`, and its session is as good as new.

    It is checked again at its first use. No round trip if the reset has sent anything.
    """
    raw = connection.connection
    if raw is None:
        return
    renewal = _renewals.pop(raw, None)
    reason = _find_left(connection, renewal) if keep and renewal is not None else None
    if reason is not None:
        logger.debug("Connection %s: the session is closed: %s", connection.alias, reason)
    if reason is not None or not keep:
        connection.close()
        if keep and _key(connection) not in _of_alias:
            _open_and_remember(connection)
    if connection.connection is not None:
        _check_at_first_use(connection)


def drop_stale_session(connection: BaseDatabaseWrapper) -> None:
    """Close a kept session that something has closed since, or that Django would open otherwise now.

    Also a session that a generator of the driver has locked after it was left half read: its next user would wait for
    ever.
    """
    if session_of(connection) is None or connection.in_atomic_block:
        return
    if driver.is_in_use(connection.connection) or not _is_usable(connection):
        connection.close()


def _check_at_first_use(connection: BaseDatabaseWrapper) -> None:
    """Check the socket when Django uses *connection* next, without a round trip: the server may have ended the session.

    Django calls this method before each statement and each transaction that it begins. It removes itself after the first
    call.
    """

    reference = weakref.ref(connection)

    def check() -> None:
        used = reference()
        assert used is not None
        vars(used).pop(_FIRST_USE, None)
        drop_stale_session(used)
        used.close_if_health_check_failed()

    setattr(connection, _FIRST_USE, check)


def _is_usable(connection: BaseDatabaseWrapper) -> bool:
    """Whether the session is alive as far as its socket shows, and was opened as Django would open it now."""
    raw = connection.connection
    if raw.closed or not is_as_opened_now(connection):
        return False
    # This does not wait. Data on the socket is the end of the session, or a message that a new one would not have.
    if not hasattr(select, "poll"):
        return not select.select([raw.pgconn.socket], [], [], 0)[0]
    poll = select.poll()
    poll.register(raw.pgconn.socket, select.POLLIN)
    return not poll.poll(0)


def _key(connection: BaseDatabaseWrapper) -> _Key:
    return connection.alias, str(connection.settings_dict["NAME"])


def _has_pool(connection: BaseDatabaseWrapper) -> bool:
    return bool(connection.settings_dict["OPTIONS"].get("pool"))


def _is_provable(connection: BaseDatabaseWrapper) -> bool:
    """Whether everything that happens on *connection* can be seen at all."""
    receivers = (entry[1] for entry in connection_created.receivers)
    functions = (receiver() if isinstance(receiver, weakref.ref) else receiver for receiver in receivers)
    modules = {getattr(function, "__module__", "") for function in functions if function is not None}
    return (
        not _has_pool(connection)
        and modules <= {"django.contrib.postgres.signals", open_sessions.__name__}
        and _is_djangos(connection)
    )


def _is_djangos(connection: BaseDatabaseWrapper) -> bool:
    """Whether the wrapper is exactly one of Django's own: its class, the class's methods, and its attributes."""
    cls = type(connection)
    own = [getattr(sys.modules.get(name), "DatabaseWrapper", None) for name in _OWN_CLASSES]
    if cls not in own or connection.execute_wrappers:
        return False
    classes = [*cls.__mro__[:-1], utils.CursorWrapper, utils.CursorDebugWrapper]
    if not all(_is_unpatched(each) for each in classes):
        return False
    expected = _expected_attributes(connection)
    return all(name in expected or _is_bound(connection, name, value) for name, value in vars(connection).items())


def _is_unpatched(cls: type[Any]) -> bool:
    attributes = tuple(vars(cls).values())
    known = _unpatched.get(cls)
    if known is not None and len(known) == len(attributes) and all(map(operator.is_, known, attributes)):
        return True
    if all(_is_of_django(each) for each in attributes):
        _unpatched[cls] = attributes
        return True
    return False


def _is_of_django(attribute: Any) -> bool:
    """Whether an attribute of a class is a value, or a function of Django's, including everything wrapped around it."""
    function = attribute
    for inner in ("__func__", "fget", "func"):
        function = getattr(function, inner, function)
    if isinstance(function, type) or not callable(function):
        return True
    while function is not None:
        code = getattr(function, "__code__", None)
        if code is None or not code.co_filename.startswith((_FOLDER, contextlib.__file__)):
            return False
        function = getattr(function, "__wrapped__", None)
    return True


def _expected_attributes(connection: BaseDatabaseWrapper) -> frozenset[str]:
    cls = type(connection)
    if cls not in _expected:
        cached = (
            name for each in cls.__mro__ for name, value in vars(each).items() if isinstance(value, cached_property)
        )
        _expected[cls] = frozenset(vars(connection.copy())) | ATTRIBUTES_OF_WRAPPERS | frozenset(cached)
    return _expected[cls]


def _is_bound(connection: BaseDatabaseWrapper, name: str, value: Any) -> bool:
    """Whether an attribute is the class's own method, which Django's test classes leave on the wrapper, or one of ours."""
    if name == _FIRST_USE:
        return getattr(value, "__module__", "") == __name__
    if type(value).__module__ == "django.test.testcases":
        return True
    return getattr(value, "__self__", None) is connection and getattr(value, "__func__", None) is getattr(
        type(connection), name, None
    )


def _open_and_remember(connection: BaseDatabaseWrapper) -> None:
    """Open a session and remember its contents; close it again if they cannot be restored."""
    connection.ensure_connection()
    remembered = _remember(connection)
    if remembered is None:
        _unknowable.add(connection)
        connection.close()
    else:
        _of_alias[_key(connection)] = remembered


def _remember(connection: BaseDatabaseWrapper) -> _AsNew | None:
    _functions[_key(connection)] = read_functions(connection)
    settings, possessions, opened = run_sql(connection, f"{_SETTINGS};\n{_POSSESSIONS};\n{_OPENED}")
    if rows_of(possessions)[0][0]:
        return None
    ((name, defaults),) = rows_of(opened)
    again = [
        f"pg_catalog.set_config({quote_literal(setting)}, {quote_literal(value)}, false)"
        for setting, value in [*rows_of(settings), *([] if name == "none" else [("role", name)])]
    ]
    last = "SELECT " + ", ".join(("pg_catalog.pg_advisory_unlock_all()", *again, _COUNTERS, _DEFAULTS, _LEFT))
    return _AsNew(
        configuration=read_configuration(connection),
        commands=[Command(sql, often=True) for sql in (*_AS_NEW, last)],
        driver=driver.DriverState(connection.connection),
        defaults=defaults,
    )


def _begin(connection: BaseDatabaseWrapper, session: ServerSession, *, vouched: bool) -> str | None:
    """Queue what restores the session; return why that is impossible, or None. With *vouched*, whatever ran in it."""
    key = _key(connection)
    reason = _find_obstacle(connection, session, key)
    if reason is None and not vouched:
        reason = next((each.reason for each in session.verdicts if each.reason is not None), None)
    if reason is None:
        pipeline_of(connection).queue(_of_alias[key].commands)
        _renewals[connection.connection] = _Renewal(session.verdicts, vouched)
        # What nobody has judged stays in the session, and counts when the setting is another one later.
        session.verdicts = {_UNJUDGED} if vouched else set()
    return reason


def _find_left(connection: BaseDatabaseWrapper, renewal: _Renewal) -> str | None:
    """Return why the session is not as good as new after all; None if it is."""
    raw, key = connection.connection, _key(connection)
    try:
        *_, counters, defaults, has_prepared, has_temporary = rows_of(
            pipeline_of(connection).take_answer(connection)[-1]
        )[0]
        if has_prepared == "t":
            return "it has statements that SQL prepared"
        if has_temporary == "t" and not renewal.vouched:
            return "it had temporary tables, whose schema stays"
        if driver.has_unread_messages(raw):
            return "messages of NOTIFY are unread"
        driver.forget_counts(raw)
        return None if renewal.vouched else _find_state(connection, key, renewal.verdicts, counters, defaults)
    except (DatabaseError, InterfaceError) as error:
        return f"it could not be put back: {error}"


def _find_obstacle(connection: BaseDatabaseWrapper, session: ServerSession, key: _Key) -> str | None:
    """Return what the driver and the settings show against the session, before anything is sent."""
    raw, as_new = connection.connection, _of_alias.get(key)
    if as_new is None or not as_new.configuration == session.configuration == read_configuration(connection):
        _of_alias.pop(key, None)
        return "new ones are opened otherwise now, or nothing is known of them yet"
    if raw.closed or not is_idle(connection):
        return "it is lost, or in a transaction"
    if not as_new.driver.is_that_of(raw):
        # A new extension may make new sessions open with other adapters.
        del _of_alias[key]
        return "the driver's connection has other options, handlers or adapters than at first"
    return "the driver has prepared statements" if driver.has_prepared(raw) else None


def _find_state(
    connection: BaseDatabaseWrapper, key: _Key, verdicts: Iterable[Verdict], counters: str, defaults: str | None
) -> str | None:
    """Return the state in the session that nothing undoes, or that a new one would get other settings; None if neither."""
    as_new = _of_alias.get(key)
    if as_new is None or defaults != as_new.defaults:
        _of_alias.pop(key, None)
        return "new sessions get other settings now"
    functions = _functions.get(key)
    if functions is None or functions.counters != counters:
        functions = _functions[key] = read_functions(connection)
    return functions.find_reason(verdicts)


# Volatile functions of PostgreSQL that leave the session as before, or that the renewal undoes.
_HARMLESS_FUNCTIONS = (
    "array_sample|array_shuffle|random|random_normal|clock_timestamp|timeofday|currval|lastval|nextval|setval|gen_random_uuid|"
    "uuidv[47]|current_query|currtid2|txid_status|pg_xact_status|pg_sleep.*|pg_notify|pg_notification_queue_usage|"
    "pg_(try_)?advisory_.*|lo_.*|loread|lowrite|pg_stat_.*|pg_.*_size|pg_is_.*|pg_current_.*|pg_last_.*|pg_lock_status|"
    "pg_.*blocking_pids|pg_isolation_test_session_is_blocked|pg_partition_.*|pg_sequence_last_value|pg_get_sequence_data|"
    "pg_cancel_backend|pg_terminate_backend|pg_control_.*|pg_xact_commit_timestamp.*|brin_.*|gin_clean_pending_list|"
    "pg_jit_available|pg_export_snapshot|pg_log_.*|pg_switch_wal|bernoulli|system|pg_.*collation_actual_version|"
    "pg_get_multixact_members|pg_prepared_xact|.*handler|amvalidate"
)
_SAFE_LANGUAGES = frozenset({"sql", "plpgsql"})
# Extensions whose functions keep nothing in the session that RESET ALL does not undo, and run no text that they are
# given.
_HARMLESS_EXTENSIONS = (
    *("btree_gin", "btree_gist", "citext", "cube", "dict_int", "dict_xsyn", "earthdistance", "fuzzystrmatch", "hstore"),
    *("intarray", "ltree", "pg_trgm", "pgcrypto", "plpgsql", "postgis", "seg", "unaccent", "uuid-ossp", "vector"),
    *("amcheck", "autoinc", "insert_username", "moddatetime", "pageinspect", "pg_buffercache", "pg_freespacemap"),
    *("pg_prewarm", "pg_stat_statements", "pg_visibility", "pgrowlocks", "pgstattuple", "sslinfo", "tcn"),
)

_CATALOGS = (
    "pg_proc",
    "pg_rewrite",
    "pg_attrdef",
    "pg_constraint",
    "pg_policy",
    "pg_trigger",
    "pg_cast",
    "pg_operator",
)
_ALSO_CATALOGS = ("pg_type", "pg_amproc", "pg_extension", "pg_foreign_server")

# A text that is another one when any of these catalogs is written to, or the counters begin anew.
_COUNTERS = qualify(
    "pg_catalog.concat_ws(' ', "
    + " + ".join(
        writes(f"'pg_catalog.{catalog}'::pg_catalog.regclass", REPORTED) for catalog in (*_CATALOGS, *_ALSO_CATALOGS)
    )
    + f", {counting_since(DATABASE_OID)})"
)
# The settings that new sessions of this role get here.
_DEFAULTS = qualify(f"""
(SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', s.setdatabase, s.setrole, s.setconfig), E'\\n'
        ORDER BY s.setdatabase, s.setrole)
   FROM pg_catalog.pg_db_role_setting s
  WHERE s.setrole = ANY (ARRAY[0, pg_catalog.quote_ident(session_user)::pg_catalog.regrole]::oid[])
    AND s.setdatabase = ANY (ARRAY[0, {DATABASE_OID}]::oid[]))
""")
# the role, the settings that new sessions get
_OPENED = f"SELECT pg_catalog.current_setting('role'), {_DEFAULTS}"
# name, oid
_BUILT_IN = qualify(f"""
SELECT p.proname::text, p.oid::text
  FROM pg_catalog.pg_proc p
 WHERE p.oid < 16384 AND p.provolatile = 'v' AND p.pronamespace = 'pg_catalog'::pg_catalog.regnamespace
   AND p.proname !~ '^({_HARMLESS_FUNCTIONS})$'
""")
# name, language, body, settings, whether anything in the schema uses it
_OWN = f"""
SELECT p.proname::text, l.lanname::text,
       pg_catalog.concat(p.prosrc, ' ', pg_catalog.pg_get_function_sqlbody(p.oid)), p.proconfig::text,
       EXISTS (SELECT FROM pg_catalog.pg_depend u
                WHERE u.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass
                  AND u.refobjid = p.oid AND u.deptype <> 'e'
                  AND u.classid <> 'pg_catalog.pg_foreign_data_wrapper'::pg_catalog.regclass)
  FROM pg_catalog.pg_proc p
  JOIN pg_catalog.pg_language l ON l.oid = p.prolang
  LEFT JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
                                  AND d.objid = p.oid AND d.deptype = 'e'
                                  AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass
  LEFT JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
 WHERE p.oid >= 16384 AND p.prokind <> 'a'
   AND (e.extname IS NULL OR e.extname::text <> ALL ('{{{",".join(_HARMLESS_EXTENSIONS)}}}'::text[]))
"""
_TREES = (
    ("pg_rewrite", "ev_action"),
    ("pg_attrdef", "adbin"),
    ("pg_constraint", "conbin"),
    ("pg_policy", "polqual"),
    ("pg_policy", "polwithcheck"),
    ("pg_trigger", "tgqual"),
    ("pg_type", "typdefaultbin"),
    ("pg_proc", "proargdefaults"),
)
_MADE_OF = (
    ("pg_operator", "oid", ("oprcode",)),
    ("pg_cast", "oid", ("castfunc",)),
    ("pg_aggregate", "aggfnoid", ("aggtransfn", "aggfinalfn", "aggmtransfn", "aggminvtransfn", "aggmfinalfn")),
)
# whether an expression of the schema, an operator, a cast or an aggregate calls such a function of PostgreSQL: pg_depend
# does not record it
_CALLED = "SELECT " + " OR ".join(
    [
        f"EXISTS (SELECT FROM pg_catalog.{catalog} t WHERE t.oid >= 16384 AND t.{column}::text ~ ':funcid (OIDS) ')"
        for catalog, column in _TREES
    ]
    + [
        f"EXISTS (SELECT FROM pg_catalog.{catalog} t WHERE t.{key}::oid >= 16384 AND t.{column}::oid::text ~ '^(OIDS)$')"
        for catalog, key, columns in _MADE_OF
        for column in columns
    ]
)
# whether foreign tables may keep connections, whether the counters are kept, how strings are read
_OTHERS = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_foreign_server),
       pg_catalog.current_setting('track_counts'),
       pg_catalog.current_setting('standard_conforming_strings')
"""
_READ = ";\n".join((f"SELECT {_COUNTERS}", *map(qualify, (_OWN, _CALLED, _OTHERS))))


@dataclass(frozen=True, slots=True)
class FunctionsWithState:
    """The functions of one database that may leave state; ``reason`` to close all sessions there, or None.

    ``counters`` is the value of :data:`_COUNTERS` when they were read.
    """

    counters: str
    names: frozenset[str]
    reason: str | None

    def find_reason(self, verdicts: Iterable[Verdict]) -> str | None:
        """Return the reason to close a session in which these statements ran, each harmless by itself; None if there is none."""
        if self.reason is not None:
            return self.reason
        for verdict in verdicts:
            if not self.names.isdisjoint(verdict.words):
                return f"it ran the function {min(self.names & verdict.words)}()"
        return None


def read_functions(connection: BaseDatabaseWrapper) -> FunctionsWithState:
    """Read the functions of the database that may leave state. One round trip, and one more the first time."""
    built_in = _read_built_in(connection)
    query = _READ.replace("OIDS", "|".join(built_in.values()))
    counters, own, called, others = run_sql(connection, query)
    ((has_servers, track_counts, strings),) = rows_of(others)
    state = set(built_in)
    functions = [_Function(*row) for row in rows_of(own)]
    stateful = [each for each in functions if each.may_leave_state()]
    while True:
        state.update(each.name.lower() for each in stateful)
        more = [each for each in functions if each not in stateful and not each.words.isdisjoint(state)]
        if not more:
            break
        stateful += more
    reason = None
    used = sorted(each.name for each in stateful if each.is_used)
    if used:
        reason = f"the schema itself calls the function {used[0]}(), which may leave state in it"
    elif rows_of(called)[0][0]:
        reason = "the schema itself calls a function of PostgreSQL that may leave state"
    elif has_servers:
        reason = "foreign servers are configured, to which it may have a connection"
    elif track_counts != "on":
        reason = "track_counts is off, so changes of the schema cannot be seen"
    elif strings != "on":
        reason = "standard_conforming_strings is off, so its statements cannot be read"
    return FunctionsWithState(rows_of(counters)[0][0], frozenset(state), reason)


# By the server's version: the functions of PostgreSQL that may leave state, and their OIDs.
_built_in: dict[int, dict[str, str]] = {}


def _read_built_in(connection: BaseDatabaseWrapper) -> dict[str, str]:
    version = server_version(connection)
    if version not in _built_in:
        (result,) = run_sql(connection, _BUILT_IN)
        oids: dict[str, list[str]] = {}
        for name, oid in rows_of(result):
            oids.setdefault(name, []).append(oid)
        _built_in[version] = {name: "|".join(each) for name, each in oids.items()}
    return _built_in[version]


class _Function:
    """A function of the database's own, or of an unknown extension."""

    def __init__(self, name: str, language: str, body: str, settings: str | None, is_used: bool) -> None:
        self.name, self.is_used = name, is_used
        self._language, self._settings = language, settings or ""
        self._text = without_texts(body)
        self.words = words_of(self._text)

    def may_leave_state(self) -> bool:
        """Whether it may leave state by itself. The caller checks the functions that it calls."""
        return (
            self._language not in _SAFE_LANGUAGES
            # A setting of the function's own that has a dot in its name.
            or re.search(r"(?:^\{|,)\"?[^=,]*\.[^=,]*=", self._settings) is not None
            or not self.words.isdisjoint(RUNS_TEXT)
            or ("create" in self.words and not self.words.isdisjoint(BRINGS_STATE))
            or any(each.search(self._text) for each in (UNREADABLE, CUSTOM_SETTING, SEED, DO_BLOCK))
        )
