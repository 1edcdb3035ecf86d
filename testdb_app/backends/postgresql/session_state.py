"""Which statements and functions can leave state in a session that no statement can undo.

PostgreSQL cannot take back a custom setting (``SET app.tenant = '1'`` reads as '' afterwards, and no longer as NULL), the
seed of ``setseed()``, a library that was loaded, a connection of dblink, or the dictionaries of PL/Python and PL/Perl. It
does not show them either: ``pg_settings`` leaves custom settings out. So a session is judged by what was sent:

- :func:`judge` reads a statement. It knows the statements that leave nothing, or only what the renewal of
  :mod:`testdb_app.backends.postgresql.session` undoes; any other is a reason to close the session.
- :class:`FunctionsWithState` holds the functions that may leave state: volatile ones of PostgreSQL that are not known to be
  harmless, and the database's own whose bodies contain one, or a statement built at run time, or cannot be read. A session
  is closed if a statement names one of these, or if the schema itself calls one (trigger, default, policy, view, check).

What is not understood counts as state: the price is a new connection. The functions are read again only when the counters
of the catalogs have moved.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from testdb_app.backends.postgresql.connection import run_sql, server_version
from testdb_app.backends.postgresql.queries import rows_of
from testdb_app.backends.postgresql.quoting import qualify

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

_LONGEST_REMEMBERED = 20_000

# Strings, names in quotes, dollar quotes and comments, as PostgreSQL's scanner finds them.
_TOKENS = re.compile(
    r"""(?P<text>\b[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|(?<![\w$])\$(?P<tag>(?:[A-Za-z_\x80-\uffff][\w\x80-\uffff]*)?)\$.*?\$(?P=tag)\$)"""
    r"""|(?P<comment>--[^\n\r]*|/\*.*?\*/)"""
    r"""|(?P<name>"(?:[^"]|"")*")""",
    re.DOTALL,
)
_WORD = re.compile(r"[^\W\d][\w$]*")
# A name with Unicode escapes may be any name; another reading of backslashes may end a string elsewhere; a nested comment.
_UNREADABLE = re.compile(r"""\bu&["']|standard_conforming_strings|/\*""", re.IGNORECASE)
_CUSTOM_SETTING = re.compile(
    r"""\b(?:re)?set\s+(?:session\s+|local\s+)?(?:"[^"]*\.[^"]*"|(?:"[^"]*"|[\w$]+)\s*\.)""", re.IGNORECASE
)
# At the beginning of a statement: it may be the name of a column.
_SEED = re.compile(
    r"""(?:^|;|>>|\b(?:begin|then|else|loop|atomic)\b)\s*set\s+(?:session\s+|local\s+)?"?seed\b""", re.IGNORECASE
)
_DO_BLOCK = re.compile(r"\bdo\b(?!\s+(?:nothing|update|instead|also)\b)", re.IGNORECASE)

_HARMLESS = frozenset(
    {
        *("select", "insert", "update", "delete", "merge", "with", "values", "table", "copy", "explain", "show"),
        *("savepoint", "release", "rollback", "begin", "start", "commit", "end", "abort", "set", "reset", "lock"),
        *("fetch", "move", "close", "declare", "notify", "listen", "unlisten", "discard", "deallocate", "checkpoint"),
        *("truncate", "analyze", "analyse", "vacuum", "reindex", "cluster", "refresh", "comment", "grant", "revoke"),
        *("create", "alter", "drop", "reassign"),
    }
)
"""First words of statements that leave nothing in the session but what the renewal undoes; see also :func:`judge`."""
# What CREATE, ALTER and DROP may bring: other settings for new sessions, code of others, connections.
_BRINGS_STATE = frozenset(
    {
        *("role", "user", "group", "database", "system", "extension", "language", "transform", "access", "server"),
        *("subscription", "function", "procedure", "routine", "aggregate"),
    }
)
_RUNS_TEXT = frozenset({"execute", "call", "load", "prepare", "deallocate", "discard", "import"})

# Volatile functions of PostgreSQL after which a session is as before, or which the renewal undoes.
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
# Extensions whose functions keep nothing in the session that RESET ALL would not undo, and run no text that they are given.
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
_ALSO_CATALOGS = ("pg_type", "pg_amproc", "pg_extension", "pg_foreign_server", "pg_db_role_setting")
_COUNTS = ("inserted", "updated", "deleted")

# One number that moves when any of these catalogs is written to. No subquery: it is planned in no time.
COUNTERS = qualify(
    "SELECT "
    + " + ".join(
        f"pg_catalog.pg_stat_get_tuples_{what}('pg_catalog.{catalog}'::pg_catalog.regclass)"
        for catalog in (*_CATALOGS, *_ALSO_CATALOGS)
        for what in _COUNTS
    )
)
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
# whether an expression of the schema, an operator, a cast or an aggregate calls such a function of PostgreSQL, which pg_depend
# does not tell
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
# whether foreign tables may keep connections, the settings that new sessions get, whether the counters are kept, how strings
# are read
_OTHERS = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_foreign_server),
       (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', s.setdatabase, s.setrole, s.setconfig), E'\\n'
               ORDER BY s.setdatabase, s.setrole)
          FROM pg_catalog.pg_db_role_setting s
         WHERE s.setrole = ANY (ARRAY[0, pg_catalog.quote_ident(session_user)::pg_catalog.regrole]::oid[])
           AND s.setdatabase = ANY (ARRAY[0, (SELECT d.oid FROM pg_catalog.pg_database d
                                   WHERE d.datname = pg_catalog.current_database())]::oid[])),
       pg_catalog.current_setting('track_counts'),
       pg_catalog.current_setting('standard_conforming_strings')
"""
_READ = ";\n".join((COUNTERS, *map(qualify, (_OWN, _CALLED, _OTHERS))))


@dataclass(frozen=True, slots=True, eq=False)
class Verdict:
    """What a statement can leave: ``reason`` why its session has to be closed, or None; ``words``, the names in it."""

    reason: str | None
    words: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class FunctionsWithState:
    """The functions of one database that may leave state; ``reason``, why all sessions there have to be closed, or None.

    ``counters`` is what :data:`COUNTERS` was when they were read, ``defaults`` the settings that new sessions get.
    """

    counters: int
    names: frozenset[str]
    reason: str | None
    defaults: str | None

    def find_reason(self, verdicts: Iterable[Verdict]) -> str | None:
        """Return why a session in which these statements, which are harmless by themselves, ran has to be closed, or None."""
        if self.reason is not None:
            return self.reason
        for verdict in verdicts:
            if not self.names.isdisjoint(verdict.words):
                return f"it ran the function {min(self.names & verdict.words)}()"
        return None


UNKNOWN = Verdict("it ran something that cannot be read")


def judge_statement(statement: str | None) -> Verdict:
    """Return what *statement*, one or several separated by semicolons, can leave in a session."""
    if statement is None:
        return UNKNOWN
    return _judge(statement) if len(statement) > _LONGEST_REMEMBERED else _judge_again(statement)


def _judge(statement: str) -> Verdict:
    text = _without_texts(statement)
    if _UNREADABLE.search(text) or "'" in text.replace("''", ""):
        return UNKNOWN
    for part in text.split(";"):
        words = [word.lower() for word in _WORD.findall(part)]
        if words and (reason := _find_reason(words)) is not None:
            return Verdict(reason)
    if _CUSTOM_SETTING.search(text):
        return Verdict("it set a custom setting, which reads as '' afterwards and not as NULL")
    if _SEED.search(text):
        return Verdict("it set the seed of random()")
    return Verdict(None, _words(text))


_judge_again = lru_cache(maxsize=4096)(_judge)


def _find_reason(words: list[str]) -> str | None:
    first = words[0]
    if first not in _HARMLESS or (first == "explain" and "execute" in words):
        return f"it ran {first.upper()}"
    if first in {"create", "alter", "drop"}:
        # CREATE OR REPLACE TRUSTED LANGUAGE, DROP FUNCTION: the kind comes before the name.
        kinds = _BRINGS_STATE.intersection(words[1:4]) - ({"role", "user", "group"} if first != "alter" else set())
        if kinds:
            return f"it ran {first.upper()} {min(kinds).upper()}"
    return None


def _words(text: str) -> frozenset[str]:
    return frozenset(word.lower() for word in _WORD.findall(text))


def _without_texts(statement: str) -> str:
    """Return *statement* without its comments and with its strings empty."""
    if not any(mark in statement for mark in ("'", "--", "/*", "$")):
        return statement
    return _TOKENS.sub(_replacement, statement)


def _replacement(token: re.Match[str]) -> str:
    if token["comment"]:
        # Comments nest, and a pattern does not see where such a one ends.
        return "/*" if "/*" in token["comment"][2:] else " "
    return token["name"] or "''"


def read_functions(connection: BaseDatabaseWrapper) -> FunctionsWithState:
    """Read the functions of the database that may leave state. One round trip, and one more the first time."""
    built_in = _read_built_in(connection)
    query = _READ.replace("OIDS", "|".join(built_in.values()))
    counters, own, called, others = run_sql(connection, query)
    ((has_servers, defaults, track_counts, strings),) = rows_of(others)
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
    return FunctionsWithState(rows_of(counters)[0][0], frozenset(state), reason, defaults)


# By the server's version, of which they are a part: the functions of PostgreSQL that may leave state, and their OIDs.
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
    """A function of the database's own, or of an extension that is not known."""

    def __init__(self, name: str, language: str, body: str, settings: str | None, is_used: bool) -> None:
        self.name, self.is_used = name, is_used
        self._language, self._settings = language, settings or ""
        self._text = _without_texts(body)
        self.words = _words(self._text)

    def may_leave_state(self) -> bool:
        """Whether it may, by itself: what it calls is looked at by the caller."""
        return (
            self._language not in _SAFE_LANGUAGES
            # A setting of the function's own that has a dot in its name.
            or re.search(r"(?:^\{|,)\"?[^=,]*\.[^=,]*=", self._settings) is not None
            or not self.words.isdisjoint(_RUNS_TEXT)
            or ("create" in self.words and not self.words.isdisjoint(_BRINGS_STATE))
            or any(each.search(self._text) for each in (_UNREADABLE, _CUSTOM_SETTING, _SEED, _DO_BLOCK))
        )
