"""Sessions: a connection that the test owns, with limits and savepoints, lent to threads that see what is not committed."""

from concurrent.futures import ThreadPoolExecutor
from datetime import date

import pytest
from django.db import transaction
from lending import AlreadyLentError, lend

from testdb_app.demo.models import Card, Copy, Loan
from testdb_app.sessions import TestSession, TestSessionFactory

DAY = date(2026, 3, 1)


def test_a_thread_sees_what_is_not_committed(test_session: TestSession) -> None:
    copy = test_session.make(Copy)
    with test_session.allow(), ThreadPoolExecutor() as threads:
        assert threads.submit(Copy.objects.get).result() == copy


def test_a_part_that_fails_is_undone_alone(test_session: TestSession) -> None:
    copy, card = test_session.make(Copy), test_session.make(Card)
    lend(copy, card, DAY)
    with pytest.raises(AlreadyLentError), test_session.savepoint():
        test_session.make(Copy)
        lend(copy, card, DAY)
    assert Copy.objects.count() == Loan.objects.count() == 1


def test_callbacks_of_a_commit_run_when_the_test_says_so(test_session: TestSession) -> None:
    sent: list[str] = []
    transaction.on_commit(lambda: sent.append("mail"))
    assert sent == []
    test_session.run_on_commit()
    assert sent == ["mail"]


@pytest.mark.test_session(isolation="reset", lock_timeout="2s")
def test_real_commits_with_a_limit(test_session: TestSession) -> None:
    test_session.make(Copy)


def test_several_in_a_script_or_a_test(db: None) -> None:
    factory = TestSessionFactory(lock_timeout="2s")
    for name in ("first", "second"):
        with factory(name) as session:
            session.make(Copy)
            assert Copy.objects.count() == 1
