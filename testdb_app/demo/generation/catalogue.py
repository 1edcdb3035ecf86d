"""The rows of the catalogue: works, their authors and their genres."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from testdb_app.demo.generation.words import ADJECTIVES, NOUNS, person, title
from testdb_app.demo.models import Author, Authorship, Book, Film, Genre, Publisher, Series, Work

if TYPE_CHECKING:
    from collections.abc import Iterator

    from testdb_app.demo.generation.loading import Load


def load_catalogue(load: Load) -> tuple[list[Any], list[Any]]:
    """Load everything about works; return the keys of the works and of their authors."""
    random, rows = load.random, load.rows
    publishers = load.insert(
        Publisher, (Publisher(name=f"{random.choice(NOUNS)} Press") for _ in range(rows[Publisher]))
    )
    series = load.insert(
        Series,
        (Series(name=title(random), publisher_id=random.choice(publishers)) for _ in range(rows[Series])),
    )
    genres = load_genres(load)
    authors = load.insert(Author, (Author(name=person(random)) for _ in range(rows[Author])))
    works = load.insert(
        Work,
        (
            Work(title=title(random), year=random.randrange(1900, 2025), series_id=random.choice(series))
            for _ in range(rows[Work])
        ),
    )
    load_books_and_films(load, works)
    load.insert(Authorship, authorships(works, authors, rows[Authorship]))
    load.insert(Work.genres.through, genre_links(works, genres, rows[Work.genres.through]))
    return works, authors


def load_genres(load: Load) -> list[Any]:
    """Put half of the genres below those that are there, the rest below that half; return the keys of all."""
    random = load.random
    upper = load.rows[Genre] // 2
    old = list(Genre._base_manager.using(load.using).order_by("pk").values_list("pk", flat=True))
    # None, a genre with no broader one, is for a database whose first genres have been deleted.
    new = load.insert(
        Genre,
        (Genre(name=f"{random.choice(NOUNS)} tales", broader_id=random.choice(old or [None])) for _ in range(upper)),
    )
    new += load.insert(
        Genre,
        (
            Genre(name=f"{random.choice(ADJECTIVES)} tales", broader_id=random.choice(new))
            for _ in range(load.rows[Genre] - upper)
        ),
    )
    return old + new


def load_books_and_films(load: Load, works: list[Any]) -> None:
    """Make books of the first works and films of the next; the others stay works and nothing else."""
    random, books = load.random, load.rows[Book]
    load.insert(
        Book,
        (
            Book(pk=work, isbn=f"978{random.randrange(10**10):010}", pages=random.randrange(60, 900))
            for work in works[:books]
        ),
    )
    load.insert(
        Film,
        (Film(pk=work, minutes=random.randrange(70, 200)) for work in works[books : books + load.rows[Film]]),
    )


def authorships(works: list[Any], authors: list[Any], number: int) -> Iterator[Authorship]:
    """Yield a first author for every work, then a second one from the first work on, and so forth."""
    for index in range(number):
        earlier, work = divmod(index, len(works))
        author = (work * 7 + earlier) % len(authors)
        yield Authorship(work_id=works[work], author_id=authors[author], position=earlier + 1)


def genre_links(works: list[Any], genres: list[Any], number: int) -> Iterator[Any]:
    """Yield a genre for every work, then a second one; the pair is unique while there are genres left."""
    for index in range(number):
        earlier, work = divmod(index, len(works))
        yield Work.genres.through(work_id=works[work], genre_id=genres[(work + earlier) % len(genres)])
