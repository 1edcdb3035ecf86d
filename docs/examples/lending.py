"""What the examples test: a loan, as an application would write it."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

from django.db import transaction

from testdb_app.demo.models import Card, Copy, Fine, Loan

DAYS = 28


class AlreadyLentError(Exception):
    """The copy is not there."""


def lend(copy: Copy, card: Card, day: date) -> Loan:
    """Lend a copy, which nobody else gets meanwhile."""
    with transaction.atomic():
        Copy.objects.select_for_update().get(pk=copy.pk)
        if copy.loans.filter(returned_on=None).exists():
            raise AlreadyLentError(str(copy))
        return Loan.objects.create(copy=copy, card=card, lent_on=day)


def take_back(loan: Loan, day: date) -> Fine | None:
    """Take a copy back; a fine for each day that it is late."""
    with transaction.atomic():
        loan.returned_on = day
        loan.save()
        late = (day - loan.lent_on).days - DAYS
        return Fine.objects.create(loan=loan, amount=Decimal("0.50") * late) if late > 0 else None
