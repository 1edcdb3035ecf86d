"""How many rows of each model make up a library of a given size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from testdb_app.demo.models import (
    Author,
    Authorship,
    Book,
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

if TYPE_CHECKING:
    from django.db.models import Model

# Rows of each model: the least, and how many of every thousand beyond all those. Loans take what is left.
# Three relations hold at every size, because they hold for both columns: a book or a film is a work of its
# own, a branch has somebody to manage it, and no work needs a genre twice (two genres are there at least).
SHARES: dict[type[Model], tuple[int, int]] = {
    Publisher: (1, 2),
    Series: (1, 5),
    Genre: (2, 1),
    Author: (1, 30),
    Work: (2, 90),
    Book: (1, 60),
    Film: (1, 20),
    Authorship: (1, 110),
    Work.genres.through: (1, 120),
    Branch: (1, 1),
    Staff: (1, 5),
    Member: (1, 60),
    Card: (1, 70),
    Copy: (1, 130),
    Loan: (1, 0),
    Fine: (1, 30),
    Review: (1, 65),
}

SMALLEST_SIZE = sum(least for least, _ in SHARES.values())


def rows_per_model(size: int) -> dict[type[Model], int]:
    """Divide `size` rows among the models, referenced ones first.

    The sum is `size` exactly, or SMALLEST_SIZE where `size` is below that: no model is left without a row.
    A row is one row of a table, so a book is two, one of Work and one of Book.
    """
    beyond = max(size - SMALLEST_SIZE, 0)
    rows = {model: least + beyond * share // 1000 for model, (least, share) in SHARES.items()}
    rows[Loan] += SMALLEST_SIZE + beyond - sum(rows.values())
    return rows
