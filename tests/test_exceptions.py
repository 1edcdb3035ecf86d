"""The error tree: drawn as it is, and able to travel between processes with all it carries."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import re
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest

from testdb_app import exceptions
from testdb_app.exceptions import Blocker, LockTimeoutError, TestDBError, UnknownNameError, UnsafeDatabaseError

BLOCKER = Blocker(
    pid=42,
    user="shop",
    application="worker",
    state="idle in transaction",
    age_seconds=12.34,
    query="UPDATE book\n   SET title = 'x'",
    table="public.book",
    lock="RowExclusiveLock",
)

DETAILS: dict[str, Any] = {
    "name": "atuh",
    "nearest": ["auth"],
    "rule": "unknown",
    "database": "shop",
    "alias": "default",
    "references": [("public.a(b_id) → public.b(id)", 3)],
    "missing": {"public.a": "DELETE"},
    "blockers": [BLOCKER],
    "attempts": 4,
    "tables": ["public.a"],
    "publications": ["everything"],
    "table": "public.a",
    "constraint": "a_check",
    "row": "(1,x)",
    "changes": ["table public.a is gone"],
    "ending": 'session "outer"',
    "still_open": 'session "inner"',
    "owner": 'session "checkout"',
    "limit": "lock_timeout",
    "seconds": 5.0,
    "statement": "SELECT 1",
    "opened_at": "shop/tests.py:12",
    "holders": ['session "checkout"'],
    "holder": "thread worker",
    "dependents": [("public.a(b_id) → public.b(id)", [(1,)])],
    "cycle": ["a", "b", "a"],
    "model": "shop.Book",
    "field": "author",
    "check": "assert_row_counts",
    "failures": ["shop.Book: 2 rows, not 1"],
}


def all_errors() -> list[type[TestDBError]]:
    found, work = [], [TestDBError]
    while work:
        cls = work.pop()
        found.append(cls)
        work.extend(cls.__subclasses__())
    return sorted({cls for cls in found if cls.__module__ == exceptions.__name__}, key=lambda cls: cls.__name__)


def an_error(cls: type[TestDBError]) -> TestDBError:
    names = {name for each in cls.__mro__ for name in getattr(each, "__annotations__", {})} & set(DETAILS)
    return cls(f"What {cls.__name__} says.", **{name: DETAILS[name] for name in names})


@pytest.mark.parametrize("cls", all_errors())
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_error_can_be_pickled_with_what_it_carries(cls: type[TestDBError], protocol: int) -> None:
    error = an_error(cls)
    error.add_note("seen in worker 3")
    received = pickle.loads(pickle.dumps(error, protocol))
    assert type(received) is cls
    assert (str(received), received.args, received.__dict__) == (str(error), error.args, error.__dict__)
    assert received.message == f"What {cls.__name__} says."
    assert received.__notes__ == ["seen in worker 3"]


@pytest.mark.parametrize("cls", all_errors())
def test_every_detail_that_is_declared_has_a_sample_here_and_is_documented(cls: type[TestDBError]) -> None:
    for name in inspect.get_annotations(cls):
        assert name in DETAILS
        assert f"``{name}``" in str(cls.__doc__)


def raise_in_another_process() -> None:
    raise LockTimeoutError("waited", blockers=[BLOCKER])


def test_an_error_arrives_from_another_process() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        error = pool.submit(raise_in_another_process).exception()
    assert isinstance(error, LockTimeoutError)
    assert (error.message, error.blockers) == ("waited", [BLOCKER])


def test_an_error_can_be_copied() -> None:
    error = an_error(UnsafeDatabaseError)
    assert copy.copy(error).__dict__ == copy.deepcopy(error).__dict__ == error.__dict__


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn: dict[str, str] = {}
    above: list[str] = []
    for line in str(exceptions.__doc__).splitlines():
        match = re.match(r"    ((?:│   |    )*(?:├── |└── )?)([A-Z]\w+)\b", line)
        if match:
            depth = len(match[1]) // 4
            above[depth:] = [match[2]]
            drawn[match[2]] = above[depth - 1] if depth else "Exception"
    assert drawn == {cls.__name__: cls.__base__.__name__ for cls in all_errors() if cls.__base__}


def test_no_class_is_taken_for_a_test() -> None:
    assert all(cls.__test__ is False for cls in all_errors())


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {},
            "process 42 (worker) holds {lock}, idle in transaction, transaction open for 12.3 s, last query: {query}",
        ),
        (
            {"pid": None, "application": None, "state": None, "age_seconds": None, "query": None},
            "a prepared transaction holds {lock}",
        ),
        (
            {"application": None, "query": None, "age_seconds": 0.04},
            "process 42 holds {lock}, idle in transaction, transaction open for 0.0 s",
        ),
    ],
)
def test_a_blocker_says_who_holds_what_for_how_long(changes: dict[str, Any], text: str) -> None:
    expected = text.format(lock="RowExclusiveLock on public.book", query="UPDATE book SET title = 'x'")
    assert str(dataclasses.replace(BLOCKER, **changes)) == expected


def test_a_long_query_of_a_blocker_is_cut() -> None:
    assert str(dataclasses.replace(BLOCKER, query="x" * 1000)).endswith("last query: " + "x" * 200)


def test_the_details_are_attributes() -> None:
    error = UnknownNameError("No such table.", name="a", nearest=["b"])
    assert (error.name, error.nearest, error.args) == ("a", ["b"], ("No such table.",))


def test_no_message_holds_what_a_terminal_would_obey() -> None:
    error = UnknownNameError("a\x1b[2J\u202eb\nc\td", name="a\x1b", nearest=[])
    assert str(error) == error.message == "a\\x1b[2J\\u202eb\nc\td"
    assert error.name == "a\x1b"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    blocker = Blocker(
        pid=1, user=None, application="\x1b]0;x\x07", state=None, age_seconds=None, query="\x9b31m", table="t", lock="l"
    )
    assert str(blocker) == "process 1 (\\x1b]0;x\\x07) holds l on t, last query: \\x9b31m"
