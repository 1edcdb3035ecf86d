"""Many rows at once are the rows that save() would have made."""

from __future__ import annotations

import datetime
from decimal import Decimal

import pytest
from django.contrib.sessions.models import Session
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import F
from django.db.models.functions import Now
from django.utils import timezone

from testdb_app.data import bulk, make
from testdb_app.demo.models import Author, Book, Fine, Genre, Loan, Member, Publisher, Series
from testdb_app.exceptions import DataError, UnsupportedError
from tests.data.models import Reading, make_tables, rows

pytestmark = pytest.mark.django_db


def test_dicts_and_instances_are_inserted_in_order_and_keys_come_from_the_database():
    publisher = Publisher.objects.create(name="P")
    given = [
        {"name": "a", "publisher": publisher},
        {"name": 'tab\t"\\N\nline', "publisher_id": publisher.pk},
        Series(name="c", publisher=publisher),
        {"name": "", "publisher": publisher},
    ]
    assert bulk(Series, iter(given)) == 4
    assert list(Series.objects.order_by("pk").values_list("name", "publisher_id")) == [
        (name, publisher.pk) for name in ("a", 'tab\t"\\N\nline', "c", "")
    ]


def test_some_rows_may_give_their_key():
    bulk(Author, [{"name": "a"}, {"pk": 5000, "name": "b"}, {"id": 5001, "name": "c"}, {"id": None, "name": "d"}])
    found = dict(Author.objects.values_list("name", "pk"))
    assert (found["b"], found["c"]) == (5000, 5001)
    assert len({*found.values()}) == 4


def test_defaults_are_those_of_save():
    assert bulk(Member, [{"name": "m", "joined_on": datetime.date(2026, 1, 1)}] * 3) == 3
    assert len(set(Member.objects.values_list("pk", flat=True))) == 3
    assert bulk(Genre, [{"name": "g"}]) == 1
    assert Genre.objects.get(name="g").broader is None


def test_nothing_is_inserted_if_one_row_cannot_be():
    with pytest.raises(DataError, match="no field 'nome'"), transaction.atomic():
        bulk(Author, [{"name": "a"}] * 3000 + [{"nome": "b"}])
    with pytest.raises(DataError, match="dicts or instances of it, not tuple"), transaction.atomic():
        bulk(Author, [{"name": "a"}, ("b",)])
    with pytest.raises(IntegrityError):
        bulk(Author, [{"name": "a"}, {"name": None}])
    assert Author.objects.count() == 0


def test_a_model_in_several_tables_and_expressions_are_refused():
    with pytest.raises(UnsupportedError, match="inherits from a model with its own table"):
        bulk(Book, [])
    for expression in (F("loan_id"), Now()):
        with pytest.raises(UnsupportedError, match="given the expression"):
            bulk(Fine, [{"loan_id": 1, "amount": expression}])


def test_numbers_and_instants_that_save_would_refuse_or_mend_are_so_here_too():
    loan = make(Loan)
    with pytest.raises(ValidationError):
        bulk(Fine, [{"loan": loan, "amount": Decimal("NaN")}])
    assert bulk(Fine, [{"loan": loan, "amount": value} for value in (Decimal("1.50"), "2.5", 3)]) == 3
    assert [str(value) for value in Fine.objects.order_by("pk").values_list("amount", flat=True)] == [
        "1.50",
        "2.50",
        "3.00",
    ]
    naive = datetime.datetime(2026, 1, 1, 12)
    row = {"session_key": "a", "session_data": "", "expire_date": naive}
    with pytest.warns(RuntimeWarning, match="received a naive datetime"):
        bulk(Session, [row])
    bulk(Session, [{**row, "session_key": "b", "expire_date": naive.replace(tzinfo=datetime.UTC)}])
    moments = Session.objects.order_by("pk").values_list("expire_date", flat=True)
    assert moments[0] == timezone.make_aware(naive)
    assert moments[1] == naive.replace(tzinfo=datetime.UTC)


def test_no_rows_are_none():
    assert bulk(Author, []) == 0


def test_values_are_converted_and_what_the_database_makes_is_left_to_it(writable):
    make_tables(writable.alias, Reading)
    saved = Reading(value=1, payload={"a": [1, None]})
    saved.save(using=writable.alias)
    given = [
        {"value": 2.5, "payload": {"a": [1, None]}},
        {"value": 3, "unit": "m"},
        {"value": "4", "place": "there"},
        Reading(value=5),
        Reading(value=6, place="off"),
    ]
    assert bulk(Reading, given, using=writable.alias) == 5
    found = rows(Reading, writable.alias, "value", "unit", "place", "payload")
    assert found == [
        (1.0, "cm", "here", {"a": [1, None]}),
        (2.5, "cm", "here", {"a": [1, None]}),
        (3.0, "m", "here", None),
        (4.0, "cm", "there", None),
        (5.0, "cm", "here", None),
        (6.0, "cm", "off", None),
    ]
    moments = {moment for (moment,) in rows(Reading, writable.alias, "changed")}
    assert all(moment.tzinfo is not None for moment in moments)
