"""The basic fixtures: rolled back where that is enough, reset where the test commits."""

import pytest

from testdb_app.demo.models import Genre
from testdb_app.testcases import ResetTransactionTestCase


def test_rolled_back(db: None) -> None:
    Genre.objects.create(name="Drama")


def test_reset(reset_db: None) -> None:
    Genre.objects.create(name="Drama")


@pytest.fixture
def drama(reset_db: None) -> Genre:
    """Rows of a fixture are taken back with those of the test: it asks for ``reset_db`` before it writes."""
    return Genre.objects.create(name="Drama")


def test_with_a_row_of_a_fixture(drama: Genre) -> None:
    assert Genre.objects.filter(name="Drama").get() == drama


@pytest.mark.usefixtures("reset_db")
class TestGenres:
    """For all tests of a class, a mark says it once."""

    def test_add(self) -> None:
        Genre.objects.create(name="Drama")

    def test_and_it_is_gone(self) -> None:
        assert Genre.objects.count() == 11


class GenreTest(ResetTransactionTestCase):
    """The same for unittest's classes."""

    def test_add(self) -> None:
        Genre.objects.create(name="Drama")

    def test_and_it_is_gone(self) -> None:
        self.assertEqual(Genre.objects.count(), 11)
