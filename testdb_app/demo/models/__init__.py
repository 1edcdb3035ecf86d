"""The lending library. Each model's docstring names the difficulty that it adds to a reset.

The longest reference chain is Fine → Loan → Copy → Work → Series → Publisher.

Each model sets its `app_label`. Without it, a project that installs only `testdb_app` and imports this package would
get the models in that app, and the next `makemigrations` would create migrations for them.
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
