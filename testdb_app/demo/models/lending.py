"""Who borrows what, what they owe, and what they think of it."""

from uuid import uuid4

from django.contrib.contenttypes.fields import GenericForeignKey
from django.contrib.contenttypes.models import ContentType
from django.db import models

from testdb_app.demo.models.branches import Branch
from testdb_app.demo.models.catalogue import Work


class Member(models.Model):
    """A UUID key: rows come and go, and no sequence moves to tell."""

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    name = models.CharField(max_length=100)
    joined_on = models.DateField()

    class Meta:
        app_label = "testdb_demo"

    def __str__(self) -> str:
        return self.name


class Card(models.Model):
    """An identity that does not start at 1: the first migration starts it at 10000, and so must a reset."""

    number = models.BigAutoField(primary_key=True)
    member = models.ForeignKey(Member, on_delete=models.CASCADE, related_name="cards")
    issued_on = models.DateField()

    class Meta:
        app_label = "testdb_demo"

    def __str__(self) -> str:
        return str(self.number)


class Copy(models.Model):
    """Where two branches of the reference graph meet: a copy refers to a work and to a branch."""

    work = models.ForeignKey(Work, on_delete=models.PROTECT, related_name="copies")
    branch = models.ForeignKey(Branch, on_delete=models.PROTECT, related_name="copies")
    shelf = models.CharField(max_length=10)

    class Meta:
        app_label = "testdb_demo"
        verbose_name_plural = "copies"

    def __str__(self) -> str:
        return f"{self.work_id} on shelf {self.shelf}"


class Loan(models.Model):
    """The largest table, which is where emptying by DELETE and by TRUNCATE part ways."""

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
    """A generic foreign key: a reference that the database does not know of.

    It reviews a work, an author or a branch. The one foreign key that the database sees leads out of this
    app, to the content types, which Django keeps in a process-wide cache as well.
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
