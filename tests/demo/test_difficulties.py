"""Each difficulty that the models promise is there, in the database as in the models."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from django.apps import apps
from django.db import IntegrityError, connection, models, transaction

from testdb_app.demo.models import (
    Author,
    Authorship,
    Branch,
    Card,
    Copy,
    Film,
    Fine,
    Genre,
    Loan,
    Member,
    Publisher,
    Review,
    Series,
    Staff,
    Work,
)

pytestmark = pytest.mark.django_db


def referenced(model: type[models.Model]) -> set[type[models.Model]]:
    return {
        field.related_model
        for field in model._meta.local_fields
        if isinstance(field, models.ForeignKey) and isinstance(field.related_model, type)
    }


@pytest.fixture
def work() -> Work:
    series = Series.objects.create(name="Rivers", publisher=Publisher.objects.create(name="River Press"))
    return Work.objects.create(title="The Silent River", year=1990, series=series)


@pytest.fixture
def authorships(work: Work) -> list[Authorship]:
    return [
        Authorship.objects.create(work=work, author=Author.objects.create(name=name), position=position)
        for position, name in enumerate(["Ada Abel", "Bela Brandt"], start=1)
    ]


def test_the_longest_reference_chain_is_the_documented_one() -> None:
    def longest_from(model: type[models.Model], seen: tuple[type[models.Model], ...]) -> tuple[type[models.Model], ...]:
        path = (*seen, model)
        further = [longest_from(other, path) for other in referenced(model) if other not in path]
        return max(further, key=len, default=path)

    chains = [longest_from(model, ()) for model in apps.get_app_config("testdb_demo").get_models()]
    longest = max(map(len, chains))
    assert [chain for chain in chains if len(chain) == longest] == [(Fine, Loan, Copy, Work, Series, Publisher)]


def test_a_branch_and_its_manager_refer_to_each_other() -> None:
    assert referenced(Branch) == {Staff}
    assert referenced(Staff) == {Branch}


def test_a_genre_refers_to_a_genre() -> None:
    assert referenced(Genre) == {Genre}


def test_the_first_genres_are_there_without_being_loaded() -> None:
    assert set(Genre.objects.filter(broader=None).values_list("name", flat=True)) == {
        "Fiction",
        "Non-fiction",
        "Film",
    }
    assert Genre.objects.exclude(broader=None).count() == 8


def test_a_new_genre_does_not_collide_with_the_first_ones() -> None:
    first = set(Genre.objects.values_list("pk", flat=True))
    assert Genre.objects.create(name="Essay").pk not in first


def test_a_film_is_a_row_of_two_tables(work: Work) -> None:
    film = Film.objects.create(title="The Last Winter", year=2001, series=work.series, minutes=90)
    assert Work.objects.get(pk=film.pk).film == film


def test_card_numbers_begin_at_10000() -> None:
    member = Member.objects.create(name="Ada Abel", joined_on=date(2000, 1, 1))
    assert Card.objects.create(member=member, issued_on=date(2000, 1, 1)).pk >= 10000


def test_postgresql_keeps_10000_as_the_start_that_a_restart_goes_back_to() -> None:
    if connection.vendor != "postgresql":
        pytest.skip("only PostgreSQL keeps a start apart from the last number given")
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT seqstart FROM pg_sequence WHERE seqrelid = pg_get_serial_sequence(%s, %s)::regclass",
            [Card._meta.db_table, "number"],
        )
        assert cursor.fetchone() == (10000,)


def test_two_authors_can_trade_places_in_one_transaction(authorships: list[Authorship]) -> None:
    first, second = authorships
    with transaction.atomic():
        Authorship.objects.filter(pk=first.pk).update(position=2)
        Authorship.objects.filter(pk=second.pk).update(position=1)
    connection.check_constraints()
    assert list(Authorship.objects.order_by("position")) == [second, first]


def test_two_authors_in_one_place_are_refused_in_the_end(authorships: list[Authorship]) -> None:
    if not connection.features.supports_deferrable_unique_constraints:
        pytest.skip("the database has no deferrable unique constraints, and the model does without")
    with pytest.raises(IntegrityError, match="testdb_demo_authorship_position"), transaction.atomic():
        Authorship.objects.update(position=1)
        connection.check_constraints()


def test_a_review_can_be_of_what_no_longer_exists(work: Work) -> None:
    review = Review.objects.create(subject=work, stars=5, text="A quiet pleasure.")
    work.delete()
    connection.check_constraints()
    review = Review.objects.get(pk=review.pk)
    assert review.subject is None


def test_every_demo_model_says_what_it_is_without_a_query(django_assert_num_queries: Any) -> None:
    branch = Branch(name="Harbour Street")
    card = Card(number=10000, member=Member(name="Ada Abel"))
    copy = Copy(pk=4, work_id=7, branch=branch, shelf="A07")
    loan = Loan(pk=5, copy=copy, card=card, lent_on=date(2010, 5, 1))
    said = {
        "Harbour Street": branch,
        "Hanna Haddad": Staff(name="Hanna Haddad", branch=branch),
        "River Press": Publisher(name="River Press"),
        "Rivers": Series(name="Rivers", publisher_id=1),
        "Crime": Genre(name="Crime", broader_id=1),
        "Edda Eriksen": Author(name="Edda Eriksen"),
        "The Silent River": Work(title="The Silent River", series_id=1),
        "3 as author 1 of 7": Authorship(work_id=7, author_id=3, position=1),
        "Ada Abel": card.member,
        "10000": card,
        "7 on shelf A07": copy,
        "4 to 10000 on 2010-05-01": loan,
        "2 for loan 5": Fine(loan=loan, amount=2),
        "5 stars: Would come again.": Review(stars=5, text="Would come again."),
    }
    with django_assert_num_queries(0):
        assert [str(value) for value in said.values()] == list(said)
