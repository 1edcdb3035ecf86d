"""Scopes inside each other: a module has works, a class in it a loan of one, and a test does with them what it likes."""

from datetime import date

import pytest
from lending import AlreadyLentError, lend

from testdb_app.data import make
from testdb_app.demo.models import Branch, Card, Copy, Loan, Work
from testdb_app.pytest_plugin import copied_per_test

DAY = date(2026, 3, 1)


@pytest.fixture(scope="module")
def branch(db_module: None) -> Branch:
    """Made once for the module; of each test's own, as the test may change it in memory."""
    return copied_per_test(make(Branch, name="Old Town"))


@pytest.fixture(scope="module")
def copies(branch: Branch) -> list[Copy]:
    """Builds on the other: it needs no ``db_module`` of its own."""
    return copied_per_test([make(Copy, branch=branch, shelf=f"P {number}") for number in range(3)])


def test_a_branch_closes(branch: Branch, copies: list[Copy]) -> None:
    for copy in copies:
        copy.delete()
    branch.delete()
    assert branch.pk is None


def test_in_the_next_test_it_is_open(branch: Branch, copies: list[Copy]) -> None:
    assert branch.copies.count() == 3
    assert copies[0].branch is branch, "what the fixtures share they share in a test's copies, too"


@pytest.fixture(scope="class")
def loan(db_class: None, copies: list[Copy]) -> Loan:
    """Made once for a class, in a savepoint of the module's transaction, and gone after the class."""
    return lend(copies[0], make(Card), DAY)


class TestWithALoan:
    def test_the_copy_is_not_there(self, loan: Loan) -> None:
        with pytest.raises(AlreadyLentError):
            lend(loan.copy, loan.card, DAY)

    def test_another_one_is(self, loan: Loan, copies: list[Copy]) -> None:
        lend(copies[1], loan.card, DAY)
        assert Loan.objects.count() == 2

    def test_each_test_is_rolled_back(self, loan: Loan) -> None:
        assert Loan.objects.get() == loan


def test_after_the_class_nothing_is_lent(copies: list[Copy]) -> None:
    assert not Loan.objects.exists()
    assert Work.objects.count() == 3
