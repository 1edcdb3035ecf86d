"""Rows come from fixtures, files, dicts and factories, and the ledger knows them all."""

from __future__ import annotations

import datetime
import json

import pytest
from django.db import transaction
from model_bakery import baker
from model_bakery.recipe import Recipe

from testdb_app.data import (
    DataLedger,
    assert_row_counts,
    assert_rows,
    assert_sequences_ahead,
    assert_unchanged,
    load,
    snapshot,
)
from testdb_app.demo.models import Author, Book, Copy, Fine, Genre, Loan, Member, Publisher, Series, Work
from testdb_app.exceptions import DataError

pytestmark = pytest.mark.django_db


@pytest.fixture
def ledger():
    with snapshot("testdb_demo") as before:
        with DataLedger() as made:
            yield made
        assert_unchanged(before)


def test_a_fixture_is_loaded_and_taken_away(ledger, tmp_path):
    path = tmp_path / "authors.json"
    path.write_text(json.dumps([{"model": "testdb_demo.author", "pk": 900, "fields": {"name": "A"}}]))
    (author,) = ledger.load(path)
    assert Author.objects.get() == author
    path.with_suffix(".yaml").write_text("- {model: testdb_demo.author, pk: 901, fields: {name: B}}")
    path.with_suffix(".xml").write_text(
        '<django-objects version="1.0"><object model="testdb_demo.author" pk="902"><field name="name">C</field></object>'
        "</django-objects>"
    )
    assert [ledger.load(path.with_suffix(kind))[0].name for kind in (".yaml", ".xml")] == ["B", "C"]
    assert_sequences_ahead()


def test_a_csv_file_is_loaded_by_its_name_or_a_model(ledger, tmp_path):
    path = tmp_path / "testdb_demo.Genre.csv"
    path.write_text('id,name,broader\n900,"Novel, long",\n901,Crime,900\n', encoding="utf-8-sig")
    assert [genre.broader_id for genre in ledger.load(path)] == [None, 900]
    assert Genre.objects.get(pk=900).name == "Novel, long"
    assert_sequences_ahead()
    other = tmp_path / "people.csv"
    other.write_text("name,joined_on\nM,2026-01-31\n")
    (member,) = ledger.load(str(other), model="testdb_demo.Member")
    assert member.joined_on == datetime.date(2026, 1, 31)
    other.write_text("name,joined_on\nM\n")
    with pytest.raises(DataError, match=r"people\.csv, line 2: 1 values for 2 names"):
        ledger.load(other, model=Member)


def test_a_sql_file_is_run_with_percent_signs_as_they_are(tmp_path):
    path = tmp_path / "rows.sql"
    path.write_text(
        "INSERT INTO testdb_demo_author (name) VALUES ('100%');\nINSERT INTO testdb_demo_author (name) VALUES ('%s');\n"
    )
    assert load(path) == []
    assert_rows(Author, [{"name": "100%"}, {"name": "%s"}])


def test_dicts_by_model_are_loaded_in_order(ledger):
    made = ledger.load(
        {
            "testdb_demo.Publisher": [{"id": 900, "name": "P"}],
            Series: [{"id": 901, "name": "S", "publisher": 900}],
            "testdb_demo.Genre": [{"id": 902, "name": "G"}],
            "testdb_demo.Work": [{"title": "T", "year": "1999", "series_id": 901, "genres": [902]}],
        }
    )
    assert made[-1].year == 1999
    assert list(Work.objects.get().genres.values_list("pk", flat=True)) == [902]
    with pytest.raises(DataError, match=r'"testdb_demo\.Wrok" is not the label of a model'):
        ledger.load({"testdb_demo.Wrok": []})
    assert_row_counts({Publisher: 1, Series: 1})


def test_rows_of_model_bakery_are_taken_away_with_the_rows_that_they_need(ledger):
    fine = ledger.setup(baker.make, Fine)
    assert fine.loan.copy.work.series.publisher.pk is not None
    assert_row_counts({Fine: 1, Loan: 1, Copy: 1, Work: 1, Publisher: 1, Member: 1})
    ledger.setup(baker.make, Copy, _quantity=2, _bulk_create=True)  # one INSERT, which sends no signal
    (book,) = ledger.load(lambda: baker.make(Book, genres=baker.make(Genre, _quantity=2)))
    assert book.genres.count() == 2
    assert_row_counts({Copy: 3, Work: 4, Book: 1})


def test_factories_recipes_callables_and_instances_come_as_they_are(ledger):
    import factory

    class PublisherFactory(factory.django.DjangoModelFactory):
        class Meta:
            model = Publisher

        name = "made by a factory"

    class SeriesFactory(factory.django.DjangoModelFactory):
        class Meta:
            model = Series

        name = "S"
        publisher = factory.SubFactory(PublisherFactory)

    (series,) = ledger.load(SeriesFactory, name="given")
    assert (series.name, series.publisher.name) == ("given", "made by a factory")
    (author,) = ledger.load(Recipe(Author, name="of a recipe"))
    (genre,) = ledger.load(Genre(name="an instance"))
    (other,) = ledger.load(lambda name: Author.objects.create(name=name), name="of a function")
    assert [author.name, genre.name, other.name] == ["of a recipe", "an instance", "of a function"]
    assert len(ledger.load([Genre(name="1"), PublisherFactory, SeriesFactory])) == 3
    with pytest.raises(DataError, match="give a fixture's name"):
        ledger.load(3)

    class Elsewhere(PublisherFactory):
        class Meta:
            database = "elsewhere"

    with pytest.raises(DataError, match='through the alias "elsewhere", not "default"'):
        ledger.load(Elsewhere)


def test_it_is_all_or_nothing():
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        load([Genre(name="1"), lambda: 1 / 0])
    assert not Genre.objects.filter(name="1").exists()
