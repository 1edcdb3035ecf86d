"""make() gives a row all that it needs, the same each time, and says what to give where it cannot."""

from __future__ import annotations

import datetime
import subprocess
import sys
from decimal import Decimal

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.contrib.contenttypes.models import ContentType

from testdb_app.data import DataLedger, Values, assert_row_counts, make
from testdb_app.demo.models import Author, Book, Branch, Fine, Loan, Review, Staff, Work
from testdb_app.exceptions import MakeError
from tests.data.models import City, Country, Egg, Hen, Mayor, Plate, make_tables, rows


@pytest.mark.django_db
def test_required_keys_are_satisfied_through_the_whole_chain():
    fine = make(Fine, amount=Decimal("1.50"))
    assert fine.loan.copy.work.series.publisher.name == "name 1"
    assert fine.loan.card.member.joined_on == datetime.date(2000, 1, 1)
    assert fine.loan.returned_on is None
    fine.full_clean()


@pytest.mark.django_db
def test_what_is_given_is_used_and_a_model_in_two_tables_is_made_in_both():
    work = make(Work, title="given")
    book = make(Book, series=work.series, isbn="3")
    assert (book.series_id, book.isbn, Work.objects.count()) == (work.series_id, "3", 2)
    assert make(Staff).branch.manager is None


@pytest.mark.django_db
def test_a_ledger_takes_away_all_that_was_made():
    with DataLedger() as ledger:
        ledger.make(Loan)
        assert_row_counts({Loan: 1, "testdb_demo.Publisher": 1})
    assert_row_counts({Loan: 0, Branch: 0, "testdb_demo.Publisher": 0, "testdb_demo.Member": 0})


@pytest.mark.django_db
def test_a_generic_key_has_to_be_given():
    with pytest.raises(
        MakeError, match=r"subject refers to a row of any model.*Pass it: make\(Review, subject=…\)"
    ) as caught:
        make(Review)
    assert (caught.value.model, caught.value.field) == ("testdb_demo.Review", "subject")
    author = make(Author)
    assert make(Review, subject=author).subject == author


def test_each_kind_of_field_gets_a_value_that_it_takes(writable):
    make_tables(writable.alias, Country, City, Mayor)
    values = Values()
    cities = [make(City, using=writable.alias, values=values) for _ in range(4)]
    for city in cities:
        city.full_clean(validate_unique=False, exclude=["country", "data", "note"])
    assert [city.country.code for city in cities] == ["de", "fr", "de", "de"]
    assert [city.name for city in cities] == ["1", "2", "3", "4"]
    assert [city.floors for city in cities] == [10, 11, 12, 10]
    assert cities[0].note is None
    assert cities[0].state == "new"
    assert len({city.key for city in cities}) == 4
    assert len(rows(Country, writable.alias)) == 2
    mayors = [make(Mayor, using=writable.alias, values=values) for _ in range(2)]
    assert len({mayor.city_id for mayor in mayors}) == 2


def test_a_unique_value_that_a_row_has_already_is_passed_over(writable):
    make_tables(writable.alias, Country, City)
    first = make(Country, using=writable.alias)
    assert (first.code, make(Country, using=writable.alias).code) == ("de", "fr")
    with pytest.raises(MakeError, match="existing rows have all values that can be made up"):
        make(Country, using=writable.alias)
    assert len(rows(Country, writable.alias)) == 2


def test_required_keys_in_a_circle_are_named(writable):
    make_tables(writable.alias, Egg, Hen)
    with pytest.raises(MakeError, match=r"Hen\.egg → data_tests\.Egg\.hen → data_tests\.Hen") as caught:
        make(Hen, using=writable.alias)
    assert caught.value.field == "egg"
    assert rows(Hen, writable.alias) == rows(Egg, writable.alias) == []


def test_a_validator_that_takes_no_made_value_is_named(writable):
    make_tables(writable.alias, Plate)
    with pytest.raises(MakeError, match=r"Plate\.number: its validators reject 'number 1'"):
        make(Plate, using=writable.alias)
    assert make(Plate, using=writable.alias, number="ABC").pk == 1


def test_a_name_that_may_have_no_space_has_none(writable):
    make_tables(writable.alias, ContentType, Permission, Group, User)
    users = [make(User, using=writable.alias, values=values) for values in [Values()] for _ in range(2)]
    assert [user.username for user in users] == ["username-1", "username-2"]


def test_values_are_the_same_in_every_process():
    code = "from testdb_app.data.factories import Values; v = Values(); print(v.next('a'), v.next('a'), v.next('b'), v.random('a').random())"
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={
                "PYTHONHASHSEED": seed,
                "DJANGO_SETTINGS_MODULE": "testproject.settings",
                "TESTPROJECT_DATABASE": "sqlite",
            },
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(said) == 1
    assert said.pop().startswith("1 2 1 0.")
    assert Values("x").random("a").random() != Values("y").random("a").random()


def test_sequences_begin_anew_with_each_ledger(writable):
    make_tables(writable.alias, Country, City)
    made = []
    for _ in range(2):
        with DataLedger(writable.alias) as ledger:
            city = ledger.make(City)
            made.append((city.name, city.key, city.country.code, city.mail))
    assert made[0] == made[1]
