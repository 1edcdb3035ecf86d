"""The catalogue of the library: works, their publishers, series and authors, and their genres."""

from typing import Any

from django.core.checks import CheckMessage
from django.db import models


class Publisher(models.Model):
    """The referenced end of the longest chain: its table must be emptied last."""

    name = models.CharField(max_length=100)

    class Meta:
        app_label = "testdb_demo"

    def __str__(self) -> str:
        return self.name


class Series(models.Model):
    """A link in the middle of the chain: both a referencing and a referenced table."""

    name = models.CharField(max_length=100)
    publisher = models.ForeignKey(Publisher, on_delete=models.PROTECT, related_name="series")

    class Meta:
        app_label = "testdb_demo"
        verbose_name_plural = "series"

    def __str__(self) -> str:
        return self.name


class Genre(models.Model):
    """A self-reference, and rows from a data migration. A reset must restore these rows.

    The sequence is past the last row of the migration. If a reset sets it to 1, the next insert fails.
    """

    name = models.CharField(max_length=100)
    broader = models.ForeignKey("self", on_delete=models.CASCADE, null=True, blank=True, related_name="narrower")

    class Meta:
        app_label = "testdb_demo"

    def __str__(self) -> str:
        return self.name


class Author(models.Model):
    """The target of a many-to-many field with an explicit through model."""

    name = models.CharField(max_length=100)

    class Meta:
        app_label = "testdb_demo"

    def __str__(self) -> str:
        return self.name


class Work(models.Model):
    """The parent in a multi-table inheritance, with two many-to-many fields. One of their tables has no model class."""

    title = models.CharField(max_length=200)
    year = models.PositiveSmallIntegerField()
    series = models.ForeignKey(Series, on_delete=models.PROTECT, related_name="works")
    authors = models.ManyToManyField(Author, through="testdb_demo.Authorship", related_name="works")
    genres = models.ManyToManyField(Genre, related_name="works")

    class Meta:
        app_label = "testdb_demo"

    def __str__(self) -> str:
        return self.title


class Book(Work):
    """Multi-table inheritance: the primary key is a foreign key, and the table has no sequence."""

    isbn = models.CharField(max_length=13)
    pages = models.PositiveIntegerField()

    class Meta:
        app_label = "testdb_demo"


class Film(Work):
    """A second child of Work. A Work without its Film row violates no constraint."""

    minutes = models.PositiveIntegerField()

    class Meta:
        app_label = "testdb_demo"


class Authorship(models.Model):
    """A through model with a deferrable unique constraint: two authors can swap positions in one transaction.

    Writes to it leave pending trigger events. Then PostgreSQL refuses to truncate or alter the table until the
    transaction ends.
    """

    work = models.ForeignKey(Work, on_delete=models.CASCADE)
    author = models.ForeignKey(Author, on_delete=models.PROTECT)
    position = models.PositiveSmallIntegerField()

    class Meta:
        app_label = "testdb_demo"
        constraints = [  # noqa: RUF012 - Django's own notation
            models.UniqueConstraint(
                fields=["work", "position"],
                name="testdb_demo_authorship_position",
                deferrable=models.Deferrable.DEFERRED,
            )
        ]

    def __str__(self) -> str:
        return f"{self.author_id} as author {self.position} of {self.work_id}"

    @classmethod
    def check(cls, **kwargs: Any) -> list[CheckMessage]:
        """Leave out models.W038: a database without deferrable constraints is meant to have none here.

        Django has two other ways. Each user would have to set SILENCED_SYSTEM_CHECKS, and it would also hide warnings
        about their own models. `Meta.required_db_features` would leave out the whole table on SQLite.
        """
        return [message for message in super().check(**kwargs) if message.id != "models.W038"]
