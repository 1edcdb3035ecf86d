"""Threads over rows that a class has committed once: other sessions see them, and a reset takes them back after the class."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from typing import Any

import pytest
from django.db import connection, connections
from lending import AlreadyLentError, lend

from testdb_app.data import make
from testdb_app.demo.models import Card, Copy, Loan

DAY = date(2026, 3, 1)


def at_once(function: Callable[..., Any], arguments: list[Any]) -> list[Any]:
    """Call *function* with each in a thread of its own, and close the thread's session."""

    def run(argument: Any) -> Any:
        try:
            return function(argument)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(arguments)) as threads:
        return list(threads.map(run, arguments))


@pytest.fixture(scope="class")
def copy(reset_db_class: None) -> Copy:
    """Committed once for a class."""
    if connection.vendor == "sqlite":
        pytest.skip("a database in memory has one session")
    return make(Copy)


@pytest.fixture(scope="class")
def cards(reset_db_class: None) -> list[Card]:
    """Committed likewise."""
    return [make(Card) for _ in range(3)]


class TestTheLastCopy:
    """What one of its tests commits the next ones see: they are steps of a story."""

    def test_another_session_sees_it(self, copy: Copy) -> None:
        assert at_once(lambda pk: Copy.objects.filter(pk=pk).exists(), [copy.pk]) == [True]

    def test_one_of_three_customers_gets_it(self, copy: Copy, cards: list[Card]) -> None:
        def come(card: Card) -> bool:
            try:
                lend(copy, card, DAY)
            except AlreadyLentError:
                return False
            return True

        assert sorted(at_once(come, cards)) == [False, False, True]

    def test_and_has_it_in_the_next_test_of_the_class(self, copy: Copy) -> None:
        assert copy.loans.count() == 1

    @pytest.mark.django_db
    def test_a_test_with_the_mark_is_rolled_back_by_itself(self, copy: Copy) -> None:
        Loan.objects.all().delete()


def test_after_the_class_all_is_gone(db: None) -> None:
    assert not Copy.objects.exists()
