"""Simple queries: nothing here needs a commit, so ``db`` does."""

from collections.abc import Callable

import pytest
from django.db.models import Count

from testdb_app.demo.models import Author, Authorship, Genre, Work


def test_a_work_is_found_by_its_title(db: None, make_work: Callable[..., Work]) -> None:
    work = make_work("Sea Poems")
    make_work("Land Poems")
    assert Work.objects.get(title__startswith="Sea") == work


def test_the_genres_of_the_migration_are_there(db: None) -> None:
    assert Genre.objects.filter(broader=None).count() == 3
    assert list(Genre.objects.get(name="Film").narrower.values_list("name", flat=True)) == ["Comedy", "Documentary"]


@pytest.mark.django_db
def test_authors_are_counted_by_their_works(make_work: Callable[..., Work]) -> None:
    ada, grace = Author.objects.create(name="Ada"), Author.objects.create(name="Grace")
    for position, author in enumerate([ada, grace]):
        Authorship.objects.create(work=make_work(), author=author, position=position)
    Authorship.objects.create(work=make_work(), author=ada, position=0)
    counted = Author.objects.annotate(number=Count("works")).order_by("-number")
    assert [(author.name, author.number) for author in counted] == [("Ada", 2), ("Grace", 1)]


def test_a_list_of_works_is_two_queries(
    db: None, make_work: Callable[..., Work], django_assert_num_queries: Callable[[int], object]
) -> None:
    for title in ("Sea", "Land", "Sky"):
        make_work(title).genres.add(Genre.objects.get(name="Crime"))
    with django_assert_num_queries(2):  # the works with their series, and their genres
        works = Work.objects.select_related("series").prefetch_related("genres")
        assert {(work.series.name, *map(str, work.genres.all())) for work in works} == {("Poets", "Crime")}
