"""Whole stories over several tables, with a second customer who comes at the same moment."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from decimal import Decimal
from threading import Barrier

import pytest
from django.contrib.contenttypes.models import ContentType
from django.db import connection
from django.db.models import ProtectedError
from lending import DAYS, AlreadyLentError, lend, take_back

from testdb_app.demo.models import Branch, Card, Copy, Loan, Review, Staff, Work

DAY = date(2026, 3, 1)


def test_a_copy_comes_back_late_and_costs_a_fine(
    db: None, make_copy: Callable[..., Copy], make_card: Callable[..., Card]
) -> None:
    loan = lend(make_copy(), make_card(), DAY)
    fine = take_back(loan, DAY + timedelta(days=DAYS + 3))
    assert fine is not None
    assert fine.amount == Decimal("1.50")
    assert take_back(lend(loan.copy, loan.card, DAY), DAY) is None


def test_of_two_customers_at_once_one_gets_the_copy(
    reset_db: None, make_copy: Callable[..., Copy], make_card: Callable[..., Card]
) -> None:
    if not connection.features.has_select_for_update:
        pytest.skip("this database locks no rows")
    copy, start = make_copy(), Barrier(2)

    def come(card: Card) -> str:
        try:
            start.wait()
            lend(copy, card, DAY)
        except AlreadyLentError:
            return "too late"
        finally:
            connection.close()  # this thread's own session
        return "lent"

    cards = [make_card("Ada"), make_card("Grace")]
    with ThreadPoolExecutor() as threads:
        assert sorted(threads.map(come, cards)) == ["lent", "too late"]
    assert Loan.objects.count() == 1


def test_a_branch_and_its_manager_refer_to_each_other(reset_db: None) -> None:
    branch = Branch.objects.create(name="Harbour")
    branch.manager = Staff.objects.create(name="Ada", branch=branch)
    branch.save()
    with pytest.raises(ProtectedError):
        branch.delete()
    # The reset empties both tables in one statement: no order of the two is right.


def test_a_review_finds_its_subject_by_a_content_type(reset_db: None, make_work: Callable[..., Work]) -> None:
    work = make_work("Sea Poems")
    Review.objects.create(subject=work, stars=5, text="Wet.")
    review = Review.objects.get(content_type=ContentType.objects.get_for_model(Work))
    assert review.subject == work
