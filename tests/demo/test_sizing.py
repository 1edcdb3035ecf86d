"""The arithmetic of a library's size."""

from __future__ import annotations

import pytest
from django.apps import apps
from hypothesis import given
from hypothesis import strategies as st

from testdb_app.demo.generate import SMALLEST_SIZE, rows_per_model
from testdb_app.demo.models import Book, Branch, Film, Genre, Staff, Work

sizes = st.integers(min_value=1, max_value=10**9)


@given(size=sizes)
def test_the_rows_add_up_to_the_size_exactly(size: int) -> None:
    assert sum(rows_per_model(size).values()) == max(size, SMALLEST_SIZE)


@given(size=sizes)
def test_no_model_is_left_without_a_row(size: int) -> None:
    rows = rows_per_model(size)
    assert set(rows) == set(apps.get_app_config("testdb_demo").get_models(include_auto_created=True))
    assert min(rows.values()) >= 1


@given(size=sizes)
def test_a_book_or_film_is_a_work_of_its_own(size: int) -> None:
    rows = rows_per_model(size)
    assert rows[Book] + rows[Film] <= rows[Work]


@given(size=sizes)
def test_every_branch_has_somebody_to_manage_it(size: int) -> None:
    rows = rows_per_model(size)
    assert rows[Branch] <= rows[Staff]


@given(size=sizes)
def test_no_work_needs_a_genre_twice_even_if_the_first_genres_are_gone(size: int) -> None:
    rows = rows_per_model(size)
    assert rows[Work.genres.through] <= rows[Work] * min(rows[Genre], 2)


@pytest.mark.parametrize("size", [1, SMALLEST_SIZE - 1])
def test_a_size_below_the_smallest_is_the_smallest(size: int) -> None:
    assert rows_per_model(size) == rows_per_model(SMALLEST_SIZE)
