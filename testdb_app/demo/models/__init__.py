"""The lending library. Each model's docstring names the difficulty that it adds to a reset.

The longest reference chain is Fine → Loan → Copy → Work → Series → Publisher.

Every model names its `app_label`. Without it, importing this package in a project that installs only
`testdb_app` would attribute the models to that app, and the next `makemigrations` would propose them.
"""

from testdb_app.demo.models.branches import Branch, Staff
from testdb_app.demo.models.catalogue import Author, Authorship, Book, Film, Genre, Publisher, Series, Work
from testdb_app.demo.models.lending import Card, Copy, Fine, Loan, Member, Review

__all__ = [
    "Author",
    "Authorship",
    "Book",
    "Branch",
    "Card",
    "Copy",
    "Film",
    "Fine",
    "Genre",
    "Loan",
    "Member",
    "Publisher",
    "Review",
    "Series",
    "Staff",
    "Work",
]
