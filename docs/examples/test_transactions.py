"""Transactions: what a test that is rolled back cannot see needs real commits, and ``reset_db`` takes them back."""

from collections.abc import Callable
from datetime import date

import pytest
from django.db import IntegrityError, connection, transaction

from testdb_app.demo.models import Author, Authorship, Card, Copy, Genre, Loan, Work

DAY = date(2026, 3, 1)


def test_an_error_takes_back_the_whole_block(reset_db: None) -> None:
    with pytest.raises(RuntimeError), transaction.atomic():
        Genre.objects.create(name="Drama")
        raise RuntimeError
    assert not Genre.objects.filter(name="Drama").exists()


def test_on_commit_is_called_after_the_commit_and_not_before(reset_db: None) -> None:
    called: list[str] = []
    with transaction.atomic():
        transaction.on_commit(lambda: called.append("mail"))
        assert called == []
    assert called == ["mail"]


def test_a_durable_block_is_the_outermost(reset_db: None) -> None:
    with transaction.atomic(durable=True):
        Genre.objects.create(name="Drama")
    with transaction.atomic(), pytest.raises(RuntimeError, match="durable"), transaction.atomic(durable=True):
        pass


def test_a_deferred_constraint_is_checked_at_the_commit(reset_db: None, make_work: Callable[..., Work]) -> None:
    if not connection.features.supports_deferrable_unique_constraints:
        pytest.skip("this database cannot defer a unique constraint")
    work = make_work()
    first, second = (
        Authorship.objects.create(work=work, author=Author.objects.create(name=name), position=position)
        for position, name in enumerate(["Ada", "Grace"])
    )
    with transaction.atomic():  # they trade places, and for a moment both stand at 1
        Authorship.objects.filter(pk=first.pk).update(position=1)
        Authorship.objects.filter(pk=second.pk).update(position=0)
    with pytest.raises(IntegrityError), transaction.atomic():
        Authorship.objects.filter(pk=first.pk).update(position=0)


def test_what_was_committed_is_gone_for_the_next_test(reset_db: None) -> None:
    assert not Genre.objects.filter(name="Drama").exists()
    assert Genre.objects.count() == 11, "the rows of the migration are still there"


def test_keys_start_again(reset_db: None, make_copy: Callable[..., Copy], make_card: Callable[..., Card]) -> None:
    loan = Loan.objects.create(copy=make_copy(), card=make_card(), lent_on=DAY)
    assert loan.pk == 1
