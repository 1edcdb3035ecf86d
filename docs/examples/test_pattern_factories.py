"""Factories of factory_boy on wide scopes: many rows once for a class, a few more for a test."""

import factory
import pytest

from testdb_app.data import DataLedger
from testdb_app.demo.models import Publisher, Series, Work


class PublisherFactory(factory.django.DjangoModelFactory):
    class Meta:
        model = Publisher

    name = factory.Sequence("Publisher {}".format)


class SeriesFactory(factory.django.DjangoModelFactory):
    class Meta:
        model = Series

    name = "Poets"
    publisher = factory.SubFactory(PublisherFactory)


class WorkFactory(factory.django.DjangoModelFactory):
    class Meta:
        model = Work

    title = factory.Sequence("Poems {}".format)
    year = 1924
    series = factory.SubFactory(SeriesFactory)


@pytest.fixture(scope="class")
def catalogue(db_class: None) -> list[Work]:
    """Made once for a class."""
    return WorkFactory.create_batch(200, series=SeriesFactory(publisher__name="Harbour"))


@pytest.mark.usefixtures("catalogue")
class TestCatalogue:
    """By the mark, a test of the class that does not name the fixture sees its rows as well."""

    def test_all_are_there(self) -> None:
        assert Work.objects.filter(series__publisher__name="Harbour").count() == 200

    def test_one_more(self, catalogue: list[Work]) -> None:
        WorkFactory(series=catalogue[0].series, year=1925)
        assert Work.objects.filter(year=1925).count() == 1

    def test_is_gone(self) -> None:
        assert Work.objects.count() == 200
        assert Publisher.objects.count() == 1


def test_in_the_middle_of_a_test_a_ledger_takes_back_what_factories_made(db: None) -> None:
    with DataLedger() as ledger:
        ledger.setup(WorkFactory, title="Sea Poems")
        assert Publisher.objects.exists()
    assert not Publisher.objects.exists(), "rows of sub-factories are the ledger's, too"
