"""`manage.py loaddemo`."""

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import UUID

import pytest
from django.apps import apps
from django.contrib.contenttypes.models import ContentType
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.db.models import Count, F

from testdb_app.demo.generate import BATCH_SIZE, load_library, rows_per_model
from testdb_app.demo.models import (
    Author,
    Authorship,
    Book,
    Branch,
    Card,
    Film,
    Fine,
    Genre,
    Loan,
    Member,
    Review,
    Work,
)

if TYPE_CHECKING:
    from django.db.models import Model
    from pytest_django.fixtures import SettingsWrapper

    from tests.demo.projects import Project

pytestmark = pytest.mark.django_db

SUMMARY_OF_1000 = """\
Model         Rows
Publisher        2
Series           5
Genre            2
Author          30
Work            90
Book            59
Film            20
Authorship     108
Work_genres    118
Branch           1
Staff            5
Member          59
Card            69
Copy           128
Loan           210
Fine            30
Review          64
Total        1,000
"""


def count_rows() -> dict[type[Model], int]:
    models = apps.get_app_config("testdb_demo").get_models(include_auto_created=True)
    return {model: model._base_manager.count() for model in models}


def added_since(before: dict[type[Model], int]) -> dict[type[Model], int]:
    return {model: number - before[model] for model, number in count_rows().items()}


def contents() -> list[list[tuple[Any, ...]]]:
    """Return what was generated, without the keys that the database gave: they go on after a rollback."""
    return [
        list(Member.objects.order_by("pk").values_list()),
        list(Work.objects.order_by("pk").values_list("title", "year", "series__publisher__name")),
        list(Book.objects.order_by("pk").values_list("title", "isbn", "pages")),
        list(Authorship.objects.order_by("pk").values_list("work__title", "author__name", "position")),
        list(Loan.objects.order_by("pk").values_list("copy__shelf", "card__member", "lent_on", "returned_on")),
        list(Review.objects.order_by("pk").values_list("content_type", "stars", "text")),
    ]


def contents_of_load(*, seed: int) -> list[list[tuple[Any, ...]]]:
    """Load, look, and roll back."""
    with transaction.atomic():
        call_command("loaddemo", size=600, seed=seed, verbosity=0)
        found = contents()
        transaction.set_rollback(True)
    return found


def test_loaddemo_adds_exactly_the_rows_it_prints() -> None:
    before = count_rows()
    out, err = StringIO(), StringIO()
    call_command("loaddemo", stdout=out, stderr=err)
    assert out.getvalue() == SUMMARY_OF_1000
    assert err.getvalue() == ""
    assert added_since(before) == rows_per_model(1000)


@pytest.mark.parametrize("size", [1, 19, 77, 5432])
def test_loaddemo_fills_every_model_at_any_size(size: int) -> None:
    before = count_rows()
    call_command("loaddemo", size=size, verbosity=0)
    added = added_since(before)
    assert sum(added.values()) == max(size, 19)
    assert min(added.values()) >= 1
    connection.check_constraints()


def test_loaddemo_says_nothing_at_verbosity_0() -> None:
    out, err = StringIO(), StringIO()
    call_command("loaddemo", size=100, verbosity=0, stdout=out, stderr=err)
    assert out.getvalue() == err.getvalue() == ""


def test_loaddemo_can_be_run_again_with_the_same_seed() -> None:
    before = count_rows()
    for _ in range(3):
        call_command("loaddemo", size=400, seed=7, verbosity=0)
    assert added_since(before) == {model: 3 * number for model, number in rows_per_model(400).items()}
    connection.check_constraints()


def test_loaddemo_can_be_run_again_where_all_members_but_one_are_gone() -> None:
    call_command("loaddemo", size=1000, verbosity=0)
    Fine.objects.all().delete()
    Loan.objects.all().delete()
    Member.objects.exclude(pk=Member.objects.order_by("pk")[30].pk).delete()
    call_command("loaddemo", size=1000, verbosity=0)
    assert Member.objects.count() == 1 + rows_per_model(1000)[Member]


def test_the_same_seed_gives_the_same_rows() -> None:
    assert contents_of_load(seed=3) == contents_of_load(seed=3)


def test_another_seed_gives_other_rows() -> None:
    assert all(one != other for one, other in zip(contents_of_load(seed=3), contents_of_load(seed=4), strict=True))


def test_loaded_rows_keep_the_rules_that_no_constraint_states() -> None:
    call_command("loaddemo", size=5000, verbosity=0)
    twice = Authorship.objects.values("work", "position").annotate(rows=Count("pk")).filter(rows__gt=1)
    assert not twice.exists(), "two authors share a position"
    assert not Book.objects.filter(pk__in=Film.objects.values("pk")).exists(), "a book is a film too"
    assert not Branch.objects.exclude(manager__branch=F("pk")).exists(), "a manager works elsewhere"
    assert not Card.objects.filter(issued_on__lt=F("member__joined_on")).exists(), "a card is older than its member"
    assert not Loan.objects.filter(lent_on__lt=F("card__issued_on")).exists(), "a loan is older than its card"
    assert not Loan.objects.filter(returned_on__lt=F("lent_on")).exists(), "a loan ends before it begins"
    assert Genre.objects.filter(broader__broader__broader=None).exclude(broader__broader=None).exists()


def test_every_review_is_of_something_that_exists() -> None:
    call_command("loaddemo", size=1000, verbosity=0)
    subjects = [review.subject for review in Review.objects.prefetch_related("subject")]
    assert {type(subject) for subject in subjects} == {Work, Author, Branch}


def test_loaddemo_works_where_the_first_genres_are_gone() -> None:
    Genre.objects.all().delete()
    call_command("loaddemo", size=300, verbosity=0)
    connection.check_constraints()
    assert Genre.objects.filter(broader=None).count() == 1


def test_loaddemo_works_where_a_reset_removed_the_content_types_that_django_remembers() -> None:
    remembered = ContentType.objects.get_for_model(Work)
    ContentType.objects.filter(pk=remembered.pk).delete()
    try:
        call_command("loaddemo", size=100, verbosity=0)
        connection.check_constraints()
    finally:
        ContentType.objects.clear_cache()


def test_an_error_in_the_middle_adds_nothing() -> None:
    before = count_rows()
    done = 0

    def interrupt(model: type[Model], rows: int) -> None:
        nonlocal done
        done += rows
        if done > 500:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_library(using="default", seed=0, rows=rows_per_model(1000), inserted=interrupt)
    assert count_rows() == before


def test_batches_add_up_to_the_rows_of_each_model() -> None:
    batches: list[tuple[type[Model], int]] = []
    rows = rows_per_model(30_000)
    load_library(using="default", seed=0, rows=rows, inserted=lambda *batch: batches.append(batch))
    assert {model: sum(number for each, number in batches if each is model) for model in rows} == rows
    assert max(number for _, number in batches) == BATCH_SIZE
    assert list(dict.fromkeys(model for model, _ in batches)) == list(rows), (
        "the order in which their lines are printed"
    )


def test_the_line_of_a_model_is_printed_as_soon_as_its_rows_are_in() -> None:
    class Watched(StringIO):
        there: ClassVar[dict[str, tuple[int, int]]] = {}

        def write(self, text: str) -> int:
            self.there[text.split(maxsplit=1)[0]] = (Work.objects.count(), Loan.objects.count())
            return super().write(text)

    call_command("loaddemo", size=10_000, stdout=Watched())
    works, loans = rows_per_model(10_000)[Work], rows_per_model(10_000)[Loan]
    shown = [Watched.there[name] for name in ("Model", "Author", "Work", "Book", "Copy", "Loan", "Total")]
    assert shown == [(0, 0), (0, 0), (works, 0), (works, 0), (works, 0), (works, loans), (works, loans)]


def test_the_statements_that_debug_keeps_do_not_pile_up(settings: SettingsWrapper) -> None:
    settings.DEBUG = True
    call_command("loaddemo", size=1000, verbosity=0)
    assert len(connection.queries) < 5


@pytest.mark.parametrize("size", [0, -5])
def test_a_size_below_1_is_refused(size: int) -> None:
    before = count_rows()
    with pytest.raises(CommandError) as refusal:
        call_command("loaddemo", size=size)
    assert str(refusal.value) == (
        f"Cannot load {size} rows: --size is the number of rows to add. Give at least 1, for example --size 1000."
    )
    assert count_rows() == before


def test_an_unknown_database_is_refused() -> None:
    with pytest.raises(CommandError, match="invalid choice: 'nowhere'"):
        call_command("loaddemo", "--database", "nowhere")


def test_a_database_without_the_tables_is_refused_with_what_to_run(project: Project) -> None:
    result = project.run("call_command('loaddemo')")
    assert result.stderr.splitlines()[-1] == (
        "django.core.management.base.CommandError: "
        'Cannot load rows into database "default": it has no table "testdb_demo_author". '
        'Run "manage.py migrate --database default" first.'
    )


def test_a_seed_gives_the_same_rows_in_every_process() -> None:
    """A generator seeded with a tuple or by `hash()` would follow PYTHONHASHSEED."""
    call_command("loaddemo", size=19, seed=5, verbosity=0)
    assert Member.objects.get().pk == UUID("8d4e7796-06c4-4145-8000-000000000000")
