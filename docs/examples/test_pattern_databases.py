"""Several databases: those that the mark or the class names are all reset."""

import pytest

from testdb_app.demo.models import Genre
from testdb_app.testcases import ResetTransactionTestCase


@pytest.mark.django_db(databases=["default", "archive"])
def test_a_genre_moves_to_the_archive(reset_db: None) -> None:
    Genre.objects.using("archive").create(name="Ballads")
    Genre.objects.get(name="Travel").delete()


@pytest.mark.django_db(databases=["default", "archive"])
def test_both_are_as_they_were(reset_db: None) -> None:
    assert Genre.objects.count() == Genre.objects.using("archive").count() == 11


class ArchiveTest(ResetTransactionTestCase):
    databases = {"default", "archive"}  # noqa: RUF012 - Django's own notation

    def test_a_genre_moves_to_the_archive(self) -> None:
        Genre.objects.using("archive").create(name="Ballads")

    def test_both_are_as_they_were(self) -> None:
        self.assertEqual(Genre.objects.using("archive").count(), 11)
