"""Models of these tests alone, whose tables a test makes in its scratch database."""

from __future__ import annotations

from typing import Any

from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import connections, models


class Country(models.Model):
    """A unique choice: there can be two rows at most."""

    code = models.CharField(max_length=2, unique=True, choices=[("de", "Germany"), ("fr", "France")])

    class Meta:
        app_label = "data_tests"


class City(models.Model):
    """A required foreign key, and fields of many kinds."""

    country = models.ForeignKey(Country, models.CASCADE)
    name = models.CharField(max_length=5, unique=True)
    floors = models.IntegerField(validators=[MinValueValidator(10), MaxValueValidator(12)])
    rate = models.DecimalField(max_digits=3, decimal_places=2)
    founded = models.DateField()
    seen = models.DateTimeField()
    slug = models.SlugField()
    mail = models.EmailField()
    site = models.URLField()
    key = models.UUIDField()
    data = models.JSONField()
    note = models.TextField(null=True)
    made = models.DateTimeField(auto_now_add=True)
    state = models.CharField(max_length=3, default="new")

    class Meta:
        app_label = "data_tests"


class Mayor(models.Model):
    """One for each city."""

    city = models.OneToOneField(City, models.CASCADE, primary_key=True)

    class Meta:
        app_label = "data_tests"


class Hen(models.Model):
    """Half of a circle of required keys."""

    egg = models.ForeignKey("data_tests.Egg", models.CASCADE)

    class Meta:
        app_label = "data_tests"


class Egg(models.Model):
    """The other half."""

    hen = models.ForeignKey(Hen, models.CASCADE)

    class Meta:
        app_label = "data_tests"


class Plate(models.Model):
    """A validator that no made value satisfies."""

    number = models.CharField(max_length=10, validators=[RegexValidator(r"\A[A-Z]{3}\Z")])

    class Meta:
        app_label = "data_tests"


class Reading(models.Model):
    """A default of the database's, one of Python's, an instant, and a column with a name of its own."""

    value = models.FloatField(db_column="odd name")
    unit = models.CharField(max_length=10, default="cm")
    place = models.CharField(max_length=10, db_default="here")
    changed = models.DateTimeField(auto_now=True)
    payload = models.JSONField(null=True)

    class Meta:
        app_label = "data_tests"
        db_table = "Data tests.reading"


class Seat(models.Model):
    """A key of two columns."""

    pk = models.CompositePrimaryKey("row", "number")
    row = models.IntegerField()
    number = models.IntegerField()

    class Meta:
        app_label = "data_tests"


class Ticket(models.Model):
    """Refers to a key of two columns, as far as the database is concerned."""

    row = models.IntegerField()
    number = models.IntegerField()

    class Meta:
        app_label = "data_tests"


def make_tables(alias: str, *made: type[models.Model]) -> None:
    """Make the tables of the models, in that order."""
    with connections[alias].schema_editor() as editor:
        for model in made:
            editor.create_model(model)


def rows(model: type[models.Model], alias: str, *names: str) -> list[tuple[Any, ...]]:
    """Return the values of all rows, by key."""
    return list(model._base_manager.using(alias).order_by("pk").values_list(*names))
