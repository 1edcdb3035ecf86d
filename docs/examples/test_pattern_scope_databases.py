"""Several databases in one scope: a transaction in each, rolled back together."""

import pytest

from testdb_app.demo.models import Genre

pytestmark = pytest.mark.testdb(databases=["default", "archive"])


@pytest.fixture(scope="module")
def ballads(db_module: None) -> Genre:
    """The same genre in both databases."""
    Genre.objects.using("archive").create(name="Ballads")
    return Genre.objects.create(name="Ballads")


def test_it_is_taken_out_of_the_archive(ballads: Genre) -> None:
    Genre.objects.using("archive").get(name="Ballads").delete()
    assert Genre.objects.filter(name="Ballads").exists()


def test_it_is_there_again(ballads: Genre) -> None:
    assert Genre.objects.count() == Genre.objects.using("archive").count() == 12
