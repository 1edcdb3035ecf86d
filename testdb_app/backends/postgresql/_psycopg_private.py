"""The private API of psycopg 3 that this package uses, in one place; read and run on 3.3.9.

``tests/testcases/test_kept_sessions.py`` fails when one of these uses no longer holds.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_QUERIES = {
    "_execute_gen": "query",
    "_executemany_gen_pipeline": "query",
    "_executemany_gen_no_pipeline": "query",
    "_stream_send_gen": "query",
    "_start_copy_gen": "statement",
    "_declare_gen": "query",
}
"""The driver's generators that send a statement of the user's, and their variable that holds it."""
_WITHOUT_STATEMENT = frozenset(
    {
        *(
            "_commit_gen",
            "_rollback_gen",
            "_fetch_gen",
            "_close_gen",
            "_scroll_gen",
            "_stream_fetchone_gen",
            "notifies",
        ),
        *(
            "_read_gen",
            "_read_row_gen",
            "_end_copy_out_gen",
            "copy_to",
            "copy_end",
            "_sync_gen",
            "_exit_gen",
            "_enter_gen",
        ),
        *("_set_autocommit_gen", "_set_isolation_level_gen", "_set_read_only_gen", "_set_deferrable_gen"),
    }
)
"""Generators that send nothing that could leave state in the session: ends of transactions, savepoints, rows, data of COPY."""
_PLAIN = ("autocommit", "isolation_level", "read_only", "deferrable", "row_factory", "cursor_factory")
_ALSO_PLAIN = ("server_cursor_factory", "prepare_threshold", "prepared_max", "_num_transactions", "_tpc", "_pipeline")

_own = threading.local()


@contextmanager
def own_statements() -> Iterator[None]:
    """Count the statements of this thread as this package's own while the block runs."""
    before = getattr(_own, "are_sent", False)
    _own.are_sent = True
    try:
        yield
    finally:
        _own.are_sent = before


def observe_statements(raw: Any, note: Callable[[Any], None]) -> None:
    """Call *note* with each statement that is sent over the driver's connection *raw* from now on, by whatever cursor.

    All of psycopg's synchronous calls go through ``Connection.wait()``, with a generator whose name shows what it does
    and whose variables hold the statement. *note* gets None for an unknown call. This package's own statements are left
    out. Functions of libpq called through ``raw.pgconn`` cannot be seen.
    """
    wait, connection = type(raw).wait, weakref.ref(raw)

    def observed(gen: Any, *arguments: Any, **options: Any) -> Any:
        code = getattr(gen, "gi_code", None)
        name = None if code is None else code.co_name
        if name in _QUERIES:
            if not getattr(_own, "are_sent", False):
                note(gen.gi_frame.f_locals.get(_QUERIES[name]))
        elif name not in _WITHOUT_STATEMENT and not getattr(_own, "are_sent", False):
            note(None)
        return wait(connection(), gen, *arguments, **options)

    raw.wait = observed


def statement_text(statement: object) -> str | None:
    """Return a statement as text; None for one of an unknown kind."""
    if isinstance(statement, str):
        return statement
    if isinstance(statement, bytes):
        return statement.decode("utf-8", "surrogateescape")
    as_string = getattr(statement, "as_string", None)
    return None if as_string is None else str(as_string(None))


def load_rows(raw: Any, answer: Any) -> list[tuple[Any, ...]]:
    """Return the rows of an answer of libpq, as a cursor of the driver's connection would."""
    from psycopg.adapt import Transformer  # noqa: PLC0415 - the driver is optional

    transformer = Transformer(raw)
    transformer.set_pgresult(answer)
    return list(transformer.load_rows(0, answer.ntuples, tuple))


def is_in_use(raw: Any) -> bool:
    """Whether somebody holds the connection's lock, such as an abandoned generator of ``notifies()`` or ``stream()``."""
    return bool(raw.lock.locked())


def has_unread_messages(raw: Any) -> bool:
    """Whether messages of NOTIFY were received and not read."""
    backlog = getattr(raw, "_notifies_backlog", ())
    return backlog is None or len(backlog) > 0


def has_prepared(raw: Any) -> bool:
    """Whether the driver has prepared statements by itself (``prepare_threshold``)."""
    return bool(raw._prepared._names or raw._prepared._to_flush)


def forget_counts(raw: Any) -> None:
    """Reset the driver's counts of how often each statement ran: above a limit it would prepare it."""
    raw._prepared._counts.clear()


class DriverState:
    """The contents of a driver's connection besides its session: options, handlers, factories, adapters and loaders, types."""

    def __init__(self, raw: Any) -> None:
        self._plain = _plain_state(raw)
        self._adapters = [(each, _described(each)) for each in _adapter_tables(raw)]

    def is_that_of(self, raw: Any) -> bool:
        """Whether *raw* holds the same."""
        if _plain_state(raw) != self._plain:
            return False
        tables, owned = _adapter_tables(raw), _owned_tables(raw)
        if len(tables) != len(self._adapters):
            return False
        return all(
            # Tables that a connection shares with its template are never written to.
            (table is known and not is_owned) or _described(table) == described
            for table, is_owned, (known, described) in zip(tables, owned, self._adapters, strict=True)
        )


def _plain_state(raw: Any) -> tuple[Any, ...]:
    return (
        type(raw),
        *[getattr(raw, name, None) for name in (*_PLAIN, *_ALSO_PLAIN)],
        tuple(raw._notice_handlers),
        tuple(raw._notify_handlers),
        raw.info.encoding,
        frozenset(vars(raw)) - {"_adapters", "wait"},
    )


def _adapter_tables(raw: Any) -> list[Any]:
    adapters = raw.adapters
    return [
        *adapters._dumpers.values(),
        *adapters._dumpers_by_oid,
        *adapters._loaders,
        adapters.types._registry,
    ]


def _owned_tables(raw: Any) -> list[bool]:
    adapters = raw.adapters
    return [
        *[adapters._own_dumpers[each] for each in adapters._dumpers],
        *adapters._own_dumpers_by_oid,
        *adapters._own_loaders,
        adapters.types._own_state,
    ]


def _described(table: Any) -> dict[Any, Any]:
    """Return the content of a table. A class and its dotted name are one key: the driver replaces one by the other."""
    return {
        (f"{key.__module__}.{key.__qualname__}" if isinstance(key, type) else key): value
        for key, value in table.items()
    }
