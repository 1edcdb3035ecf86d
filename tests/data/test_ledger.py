"""A ledger takes away what was set up and nothing else, in the order of the foreign keys, and says what stands in the way."""

from __future__ import annotations

import datetime

import pytest
from django.db import connection, transaction

from testdb_app.data import DataLedger, SeedRegistry, assert_unchanged, snapshot
from testdb_app.demo.models import Author, Authorship, Book, Branch, Card, Genre, Member, Publisher, Series, Staff, Work
from testdb_app.exceptions import ConfigurationError, DataError, DependentRowsError, SeedError, UnknownNameError
from tests.data.models import Seat, Ticket

DAY = datetime.date(2026, 1, 1)


def make_series():
    return Series.objects.create(name="S", publisher=Publisher.objects.create(name="P"))


@pytest.fixture(params=["autocommit", "atomic"])
def clean(request, transactional_db):
    """Nothing that a test of this file leaves behind stays unnoticed."""
    with snapshot("testdb_demo") as before:
        if request.param == "atomic":
            with transaction.atomic():
                yield before
                transaction.set_rollback(True)
        else:
            yield before


def test_rows_that_were_returned_or_saved_meanwhile_go_and_others_stay(clean):
    other = Publisher.objects.create(name="other")
    with DataLedger() as ledger:
        series = ledger.setup(make_series)
        book = ledger.setup(Book.objects.create, title="T", year=2000, series=series, isbn="1", pages=2)
        many = ledger.setup(lambda: {"authors": [Author(name="unsaved"), Author.objects.create(name="A")], "number": 3})
        book.authors.through.objects.count()
        assert many["number"] == 3
        assert Work.objects.count() == 1
    assert list(Publisher.objects.all()) == [other]
    assert (Work.objects.count(), Book.objects.count(), Series.objects.count(), Author.objects.count()) == (0, 0, 0, 0)
    other.delete()
    assert_unchanged(clean)


def test_rows_go_along_with_automatic_many_to_many_rows_that_link_them(clean):
    genre = Genre.objects.create(name="not of the ledger")
    with DataLedger() as ledger:
        work = ledger.setup(lambda: Work.objects.create(title="T", year=1, series=make_series()))
        work.genres.add(genre)
    genre.delete()
    assert_unchanged(clean)


def test_what_came_to_depend_on_a_row_is_named_and_nothing_is_taken(clean):
    ledger = DataLedger()
    author = ledger.setup(Author.objects.create, name="A")
    work = Work.objects.create(title="T", year=1, series=ledger.setup(make_series))
    link = Authorship.objects.create(work=work, author=author, position=1)
    with pytest.raises(DependentRowsError) as caught:
        ledger.teardown()
    named = dict(caught.value.dependents)
    assert sorted(key.rpartition(" → ")[0].rpartition(".")[2] for key in named) == [
        "testdb_demo_authorship(author_id)",
        "testdb_demo_work(series_id)",
    ]
    assert sorted(named.values()) == sorted([[(link.pk,)], [(work.pk,)]])
    assert f"id={work.pk}" in str(caught.value)
    assert (Author.objects.count(), Series.objects.count(), Publisher.objects.count()) == (1, 1, 1)
    link.delete()
    work.delete()
    removed = ledger.teardown()
    assert sorted(table.rpartition(".")[2] for table in removed) == [
        "testdb_demo_author",
        "testdb_demo_publisher",
        "testdb_demo_series",
    ]
    assert ledger.teardown() == {}
    assert_unchanged(clean)


def test_keys_of_several_columns_are_found_again(writable):
    writable.execute(
        "CREATE TABLE data_tests_seat (row integer, number integer, PRIMARY KEY (row, number));"
        "CREATE TABLE data_tests_ticket (id integer PRIMARY KEY, row integer, number integer,"
        " FOREIGN KEY (row, number) REFERENCES data_tests_seat (row, number))"
    )
    other = Seat.objects.using(writable.alias).create(row=9, number=9)
    ledger = DataLedger(writable.alias)
    ledger.make(Seat)
    ledger.setup(Seat.objects.using(writable.alias).create, row=1, number=2)
    ledger.bulk(Seat, [{"row": 3, "number": n} for n in range(3)] + [Seat(row=4, number=1)])
    ticket = Ticket.objects.using(writable.alias).create(id=5, row=1, number=2)
    with pytest.raises(DependentRowsError, match="id=5"):
        ledger.teardown()
    assert Seat.objects.using(writable.alias).count() == 7
    ledger.teardown(dependents="take")
    assert list(Seat.objects.using(writable.alias)) == [other]
    assert not Ticket.objects.using(writable.alias).filter(pk=ticket.pk).exists()


def test_what_came_to_depend_on_a_row_is_taken_along_if_that_is_asked_for(clean):
    ledger = DataLedger(dependents="take")
    author, series = ledger.setup(Author.objects.create, name="A"), ledger.setup(make_series)
    book = Book.objects.create(title="T", year=1, series=series, isbn="1", pages=1)
    Authorship.objects.create(work=book, author=author, position=1)
    ledger.teardown()
    assert_unchanged(clean)


def test_rows_in_a_cycle_and_rows_that_refer_to_themselves_go_at_once(clean):
    with DataLedger() as ledger:
        branch = ledger.setup(Branch.objects.create, name="B")
        branch.manager = ledger.setup(Staff.objects.create, name="M", branch=branch)
        branch.save()
        top = ledger.setup(Genre.objects.create, name="top")
        ledger.setup(Genre.objects.create, name="low", broader=top)
    assert_unchanged(clean)


def test_keys_that_are_no_numbers_are_found_again(clean):
    with DataLedger() as ledger:
        member = ledger.setup(Member.objects.create, name="M", joined_on=DAY)
        ledger.setup(Card.objects.create, member=member, issued_on=DAY)
    ledger = DataLedger()
    member = ledger.setup(Member.objects.create, name="M", joined_on=DAY)
    card = Card.objects.create(member=member, issued_on=DAY)
    with pytest.raises(DependentRowsError, match=f"number={card.pk}"):
        ledger.teardown()
    ledger.teardown(dependents="take")
    assert_unchanged(clean)


def test_a_row_that_the_test_deleted_itself_is_no_obstacle(clean):
    with DataLedger() as ledger:
        ledger.setup(Author.objects.create, name="A").delete()
    assert_unchanged(clean)


def test_thousands_of_rows_are_inserted_and_taken_away(clean):
    with DataLedger() as ledger:
        publisher = ledger.setup(Publisher.objects.create, name="P")
        assert ledger.bulk(Series, ({"name": f"s{n}", "publisher": publisher} for n in range(5000))) == 5000
        assert ledger.bulk(Author, [Author(name="a"), Author(name="b")]) == 2
        assert ledger.bulk(Member, [Member(name="m", joined_on=DAY), {"name": "n", "joined_on": DAY}]) == 2
        assert (Series.objects.count(), Member.objects.count()) == (5000, 2)
        with pytest.raises(DataError, match="dicts or instances of it, not tuple"):
            ledger.bulk(Series, [{"name": "s", "publisher": publisher}, ("s",)])
        after = Series.objects.create(name="next", publisher=publisher)
        assert after.pk > max(Series.objects.exclude(pk=after.pk).values_list("pk", flat=True))
        after.delete()
    assert_unchanged(clean)


def test_callbacks_run_last_in_first_out_each_once_whatever_the_others_do(clean):
    calls = []
    ledger = DataLedger()
    author = ledger.setup(Author.objects.create, name="A")

    def fail(text):
        calls.append(text)
        raise ValueError(text)

    ledger.on_teardown(calls.append, "first")
    ledger.on_teardown(fail, "second")
    ledger.on_teardown(fail, text="third")
    ledger.on_teardown(lambda: calls.append(Author.objects.filter(pk=author.pk).exists()))
    with pytest.raises(ValueError, match="third") as caught:
        ledger.teardown()
    assert calls == [True, "third", "second", "first"]
    assert caught.value.__notes__ == ["Another error of the teardown: ValueError: second"]
    assert ledger.teardown() == {}
    assert calls == [True, "third", "second", "first"]
    assert_unchanged(clean)


def test_the_error_of_the_block_comes_first_with_a_note_of_what_failed_after_it(clean):
    def fail():
        raise ValueError("in the teardown")

    with pytest.raises(KeyError) as caught, DataLedger() as ledger:
        ledger.setup(Author.objects.create, name="A")
        ledger.on_teardown(fail)
        raise KeyError("in the block")
    assert caught.value.__notes__ == ["The teardown failed, too: ValueError: in the teardown"]
    assert_unchanged(clean)


def test_whoever_wants_to_stop_the_run_is_not_held_back_by_another_error(clean):
    def stop():
        raise KeyboardInterrupt

    ledger = DataLedger()
    ledger.on_teardown(stop)
    ledger.on_teardown(lambda: 1 / 0)
    with pytest.raises(KeyboardInterrupt) as caught:
        ledger.teardown()
    assert caught.value.__notes__ == ["Another error of the teardown: ZeroDivisionError: division by zero"]


def test_rows_can_be_left_to_a_rollback(clean):
    ledger = DataLedger()
    calls = []
    ledger.on_teardown(calls.append, 1)
    author = ledger.setup(Author.objects.create, name="A")
    assert ledger.teardown(rows=False) == {}
    assert calls == [1]
    assert Author.objects.filter(pk=author.pk).delete()[0] == 1
    assert ledger.teardown() == {}


def test_what_a_rolled_back_savepoint_took_is_forgotten(clean):
    registry = SeedRegistry()

    @registry.register("authors")
    def authors(ledger):
        return ledger.setup(Author.objects.create, name="seed")

    ledger = DataLedger(registry=registry)
    kept = ledger.setup(Author.objects.create, name="kept")
    mark = ledger.mark()
    with transaction.atomic():
        lost = ledger.seed("authors")
        transaction.set_rollback(True)
    ledger.forget_since(mark)
    again = ledger.seed("authors")
    assert again is not lost
    assert set(Author.objects.all()) == {kept, again}
    ledger.teardown()
    assert_unchanged(clean)


def test_seeds_are_made_once_a_ledger_after_those_that_they_build_on(clean):
    registry, made = SeedRegistry(), []

    @registry.register("shelf", after=["catalogue", "library"])
    def shelf(ledger):
        made.append("shelf")
        return ledger.seed("library").name

    @registry.register("catalogue", after="library")
    def catalogue(ledger):
        made.append("catalogue")

    @registry.register("library")
    def library(ledger):
        made.append("library")
        return ledger.make(Branch)

    with DataLedger(registry=registry) as ledger:
        assert ledger.seed("shelf") == "name 1"
        assert ledger.seed("library").name == "name 1"
        assert made == ["library", "catalogue", "shelf"]
    with DataLedger(registry=registry) as ledger:
        ledger.seed("catalogue")
    assert made == ["library", "catalogue", "shelf", "library", "catalogue"]
    assert_unchanged(clean)


def test_seeds_in_a_circle_and_unknown_ones_are_refused():
    registry = SeedRegistry()
    registry.register("one", after=["two"])(lambda ledger: None)
    registry.register("two", after=["three"])(print)
    registry.register("three", after=["two"])(repr)
    with pytest.raises(SeedError, match="two after three after two") as circle:
        registry.order("one")
    assert circle.value.cycle == ["two", "three", "two"]
    with pytest.raises(UnknownNameError, match=r"no seed \"thre\"\. Did you mean three\?") as unknown:
        registry.order("thre")
    assert unknown.value.nearest == ["three"]
    with pytest.raises(ConfigurationError, match='two seeds "two"'):
        registry.register("two")(len)


def test_instances_of_another_database_are_refused(clean):
    author = Author(name="A", pk=1)
    author._state.adding, author._state.db = False, "elsewhere"
    with pytest.raises(DataError, match='saved through the alias "elsewhere"'):
        DataLedger().register(author)
    with pytest.raises(ConfigurationError, match="refuse, take"):
        DataLedger(dependents="cascade")


def test_a_database_that_is_not_known_to_be_a_test_one_is_not_written_to(database):
    from testdb_app.exceptions import UnsafeDatabaseError

    database.execute("CREATE TABLE testdb_demo_author (id integer PRIMARY KEY, name varchar(100))")
    ledger = DataLedger(database.alias)
    with pytest.raises(UnsafeDatabaseError, match="Refusing to write to"):
        ledger.setup(Author(id=1, name="A").save, using=database.alias)
    assert database.count("testdb_demo_author") == 0
    DataLedger(database.alias, allow_database=database.name).setup(Author(id=1, name="A").save, using=database.alias)
    assert database.count("testdb_demo_author") == 1


def test_nothing_of_the_registry_stays_connected(transactional_db):
    from django.db.models.signals import post_save

    before = len(post_save.receivers)
    with DataLedger() as ledger:
        ledger.setup(Author.objects.create, name="A")
    assert len(post_save.receivers) == before
    assert connection.in_atomic_block is False
