"""Ten tests that commit, with Django's class and with a reset in place of its flush: ``demo.sh`` compares what they cost."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

from django.db import transaction
from django.db.models import ProtectedError
from django.test import TransactionTestCase

from testdb_app.demo.models import Branch, Card, Copy, Fine, Loan, Member, Publisher, Series, Work
from testdb_app.testcases import ResetMixin

DAY = date(2026, 11, 1)


class FlushTests(TransactionTestCase):
    """Django's class: after each test a flush of all tables."""

    def setUp(self) -> None:
        series = Series.objects.create(name="Poems", publisher=Publisher.objects.create(name="Shore"))
        work = Work.objects.create(title="Sea Poems", year=1998, series=series)
        self.copy = Copy.objects.create(work=work, branch=Branch.objects.create(name="Main Street"), shelf="P")
        self.card = Card.objects.create(member=Member.objects.create(name="Ada", joined_on=DAY), issued_on=DAY)

    def lend(self) -> Loan:
        return Loan.objects.create(copy=self.copy, card=self.card, lent_on=DAY)

    def test_a_copy_is_lent(self) -> None:
        self.lend()
        self.assertEqual(Loan.objects.count(), 1)

    def test_a_copy_is_returned(self) -> None:
        loan = self.lend()
        loan.returned_on = DAY
        loan.save()
        self.assertFalse(Loan.objects.filter(returned_on=None).exists())

    def test_a_copy_is_lent_twice(self) -> None:
        self.assertNotEqual(self.lend().pk, self.lend().pk)

    def test_a_fine_belongs_to_a_loan(self) -> None:
        fine = Fine.objects.create(loan=self.lend(), amount=Decimal("2.50"))
        self.assertEqual(fine.loan.card, self.card)

    def test_a_paid_fine_is_deleted(self) -> None:
        Fine.objects.create(loan=self.lend(), amount=Decimal("2.50")).delete()
        self.assertFalse(Fine.objects.exists())

    def test_a_copy_that_is_lent_stays(self) -> None:
        self.lend()
        with self.assertRaises(ProtectedError):
            self.copy.delete()

    def test_a_copy_that_was_never_lent_goes(self) -> None:
        self.copy.delete()
        self.assertFalse(Copy.objects.exists())

    def test_a_member_leaves_with_the_card(self) -> None:
        self.card.member.delete()
        self.assertFalse(Card.objects.exists())

    def test_what_is_rolled_back_is_not_lent(self) -> None:
        with transaction.atomic():
            self.lend()
            transaction.set_rollback(True)
        self.assertFalse(Loan.objects.exists())

    def test_a_message_is_sent_after_the_commit(self) -> None:
        messages: list[int] = []
        with transaction.atomic():
            transaction.on_commit(lambda: messages.append(Loan.objects.count()))
            self.lend()
        self.assertEqual(messages, [1])


class ResetTests(ResetMixin, FlushTests):
    """The same tests: after each a reset of what it wrote."""
