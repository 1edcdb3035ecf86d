"""What the library holds: works, who published and wrote them, and what they are about."""

from typing import Any

from django.core.checks import CheckMessage
from django.db import models


class Publisher(models.Model):
    """The referenced end of the longest chain: its table can only be emptied last."""

    name = models.CharField(max_length=100)

    class Meta:
        app_label = "testdb_demo"

    def __str__(self) -> str:
        return self.name


class Series(models.Model):
    """A link in the middle of the chain: it refers and is referred to."""

    name = models.CharField(max_length=100)
    publisher = models.ForeignKey(Publisher, on_delete=models.PROTECT, related_name="series")

    class Meta:
        app_label = "testdb_demo"
        verbose_name_plural = "series"

    def __str__(self) -> str:
        return self.name


class Genre(models.Model):
    """A self-reference, and rows that a data migration leaves: a reset must bring those back, not lose them.

    The sequence stands behind the migration's last row, so setting it to 1 makes the next insert fail.
    """

    name = models.CharField(max_length=100)
    broader = models.ForeignKey("self", on_delete=models.CASCADE, null=True, blank=True, related_name="narrower")

    class Meta:
        app_label = "testdb_demo"

    def __str__(self) -> str:
        return self.name


class Author(models.Model):
    """The far side of a many-to-many with a through model of its own."""

    name = models.CharField(max_length=100)

    class Meta:
        app_label = "testdb_demo"

    def __str__(self) -> str:
        return self.name


class Work(models.Model):
    """The base of a multi-table inheritance, and two many-to-manys: one table of them has no model class."""

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
    """A second table that inherits from Work. A Work that lost its Film row breaks no constraint."""

    minutes = models.PositiveIntegerField()

    class Meta:
        app_label = "testdb_demo"


class Authorship(models.Model):
    """A through model with a deferrable unique constraint: two authors may trade places in one transaction.

    Rows written under it leave pending trigger events, after which PostgreSQL refuses to truncate or alter
    the table until the transaction ends.
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
        """Leave out models.W038: where the database cannot defer, doing without the constraint is meant.

        Django offers SILENCED_SYSTEM_CHECKS, which would be every user's to set and would hide their own
        models' warnings, and `Meta.required_db_features`, which would leave the whole table out on SQLite.
        """
        return [message for message in super().check(**kwargs) if message.id != "models.W038"]
