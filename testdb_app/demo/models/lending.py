"""Lending: members and their cards, copies, loans, fines and reviews."""

from uuid import uuid4

from django.contrib.contenttypes.fields import GenericForeignKey
from django.contrib.contenttypes.models import ContentType
from django.db import models

from testdb_app.demo.models.branches import Branch
from testdb_app.demo.models.catalogue import Work


class Member(models.Model):
    """A UUID key: no sequence moves when rows are inserted, so no sequence shows the change."""

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    name = models.CharField(max_length=100)
    joined_on = models.DateField()

    class Meta:
        app_label = "testdb_demo"

    def __str__(self) -> str:
        return self.name


class Card(models.Model):
    """An identity that does not start at 1. The first migration starts it at 10000, and a reset must do the same."""

    number = models.BigAutoField(primary_key=True)
    member = models.ForeignKey(Member, on_delete=models.CASCADE, related_name="cards")
    issued_on = models.DateField()

    class Meta:
        app_label = "testdb_demo"

    def __str__(self) -> str:
        return str(self.number)


class Copy(models.Model):
    """The join of two branches of the dependency graph: a copy references a work and a branch."""

    work = models.ForeignKey(Work, on_delete=models.PROTECT, related_name="copies")
    branch = models.ForeignKey(Branch, on_delete=models.PROTECT, related_name="copies")
    shelf = models.CharField(max_length=10)

    class Meta:
        app_label = "testdb_demo"
        verbose_name_plural = "copies"

    def __str__(self) -> str:
        return f"{self.work_id} on shelf {self.shelf}"


class Loan(models.Model):
    """The largest table. DELETE and TRUNCATE differ most here."""

    copy = models.ForeignKey(Copy, on_delete=models.PROTECT, related_name="loans")
    card = models.ForeignKey(Card, on_delete=models.PROTECT, related_name="loans")
    lent_on = models.DateField()
    returned_on = models.DateField(null=True, blank=True)

    class Meta:
        app_label = "testdb_demo"

    def __str__(self) -> str:
        return f"{self.copy_id} to {self.card_id} on {self.lent_on}"


class Fine(models.Model):
    """The referencing end of the longest chain: its table must be emptied first."""

    loan = models.ForeignKey(Loan, on_delete=models.PROTECT, related_name="fines")
    amount = models.DecimalField(max_digits=6, decimal_places=2)

    class Meta:
        app_label = "testdb_demo"

    def __str__(self) -> str:
        return f"{self.amount} for loan {self.loan_id}"


class Review(models.Model):
    """A generic foreign key: a reference without a constraint in the database.

    It reviews a work, an author or a branch. Its only foreign key constraint references a table outside of this app:
    the content types, which Django also keeps in a process-wide cache.
    """

    content_type = models.ForeignKey(ContentType, on_delete=models.CASCADE)
    object_id = models.PositiveBigIntegerField()
    subject = GenericForeignKey("content_type", "object_id")
    stars = models.PositiveSmallIntegerField()
    text = models.TextField()

    class Meta:
        app_label = "testdb_demo"
        indexes = [  # noqa: RUF012 - Django's own notation
            models.Index(fields=["content_type", "object_id"], name="testdb_demo_review_subject")
        ]

    def __str__(self) -> str:
        return f"{self.stars} stars: {self.text}"
