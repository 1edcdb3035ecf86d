"""Generate the rows of a library and insert them into a database."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from itertools import islice
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from django.conf import settings
from django.contrib.contenttypes.models import ContentType
from django.db import connections, reset_queries, transaction

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
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from django.db.models import Model

    Row = TypeVar("Row", bound=Model)

    # It is called with a model and the number of rows inserted, at most BATCH_SIZE.
    Inserted = Callable[[type[Model], int], None]


def load_library(*, using: str, seed: int, rows: dict[type[Model], int], inserted: Inserted) -> None:
    """Add `rows` of each model to the database `using`, in one transaction.

    Existing rows are not changed. The same seed on the same database content gives the same rows. `inserted` is called
    after each batch, with the model and the number of rows. Memory holds only the primary keys, some tens of bytes a
    row. Raises Django's database errors; then nothing was added.
    """
    with transaction.atomic(using=using):
        key_block, random = unused_key_block(using, seed)
        load = Load(using=using, rows=rows, random=random, inserted=inserted)
        works, authors = load_catalogue(load)
        branches = load_branches(load)
        cards = load_members(load, key_block)
        load_loans(load, works=works, branches=branches, cards=cards)
        load_reviews(load, works=works, authors=authors, branches=branches)


def unused_key_block(using: str, seed: int) -> tuple[int, Random]:
    """Return the seed's first block of member keys that no run has used yet, and the random numbers of that run.

    The database generates all other keys. The key of a member is generated here. It depends only on the seed, and no
    earlier run has used it.
    """
    run = 0
    while True:
        random = Random(f"{seed}:{run}")  # noqa: S311 - it must be repeatable, not secret
        key_block = random.getrandbits(64)
        block_ends = (member_key(key_block, 0), member_key(key_block, 2**32 - 1))
        if not Member._base_manager.using(using).filter(pk__range=block_ends).exists():
            return key_block, random
        run += 1


def load_catalogue(load: Load) -> tuple[list[Any], list[Any]]:
    """Load the works and the rows that belong to them. Return the keys of the works and of the authors."""
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
    """Insert half of the genres below the existing ones, and the rest below that half. Return the keys of all genres."""
    random = load.random
    upper = load.rows[Genre] // 2
    old = list(Genre._base_manager.using(load.using).order_by("pk").values_list("pk", flat=True))
    # None (no broader genre) is for a database whose first genres were deleted.
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
    """Turn the first works into books and the next ones into films. The others have only their row of Work."""
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
    """Yield a first author for every work, then a second author, again from the first work on, and so on."""
    for index in range(number):
        earlier, work = divmod(index, len(works))
        author = (work * 7 + earlier) % len(authors)
        yield Authorship(work_id=works[work], author_id=authors[author], position=earlier + 1)


def genre_links(works: list[Any], genres: list[Any], number: int) -> Iterator[Any]:
    """Yield a genre for every work, then a second one. The pairs are unique as long as there are genres left."""
    for index in range(number):
        earlier, work = divmod(index, len(works))
        yield Work.genres.through(work_id=works[work], genre_id=genres[(work + earlier) % len(genres)])


FIRST_MEMBER_JOINS = date(2000, 1, 1)
JOINING_DAYS = 3000
LENDING_STARTS = FIRST_MEMBER_JOINS + timedelta(days=JOINING_DAYS)
LENDING_DAYS = 6000


def load_branches(load: Load) -> list[Any]:
    """Load the branches without managers, then the staff. Then make the first member of each branch's staff its manager."""
    random, rows = load.random, load.rows
    branches = load.insert(Branch, (Branch(name=f"{random.choice(NOUNS)} Street") for _ in range(rows[Branch])))
    staff = load.insert(
        Staff,
        (Staff(name=person(random), branch_id=branches[i % len(branches)]) for i in range(rows[Staff])),
    )
    Branch._base_manager.using(load.using).bulk_update(
        [Branch(pk=branch, manager_id=manager) for branch, manager in zip(branches, staff, strict=False)],
        ["manager"],
        batch_size=200,
    )
    return branches


def load_members(load: Load, key_block: int) -> list[Any]:
    """Load the members with generated keys, and their cards. Return the numbers of the cards."""
    random, rows = load.random, load.rows
    members = load.insert(
        Member,
        (
            Member(id=member_key(key_block, index), name=person(random), joined_on=joining_day(index))
            for index in range(rows[Member])
        ),
    )
    holders = (index % len(members) for index in range(rows[Card]))
    return load.insert(Card, (Card(member_id=members[holder], issued_on=joining_day(holder)) for holder in holders))


def joining_day(index: int) -> date:
    """Return the day on which a member of a run joins. The days repeat."""
    return FIRST_MEMBER_JOINS + timedelta(days=index % JOINING_DAYS)


def member_key(key_block: int, index: int) -> UUID:
    """Return the key of a member: the block in the upper half, the index (below 2³²) in the lower half."""
    return UUID(int=(key_block << 64) | index, version=4)


def load_loans(load: Load, *, works: list[Any], branches: list[Any], cards: list[Any]) -> None:
    """Load the copies, their loans to the cards, and the fines."""
    random, rows = load.random, load.rows
    copies = load.insert(
        Copy,
        (
            Copy(
                work_id=random.choice(works),
                branch_id=random.choice(branches),
                shelf=f"{random.choice('ABCDEFGH')}{random.randrange(100):02}",
            )
            for _ in range(rows[Copy])
        ),
    )
    loans = load.insert(Loan, loans_of(load, copies, cards))
    load.insert(
        Fine,
        (
            Fine(loan_id=random.choice(loans), amount=Decimal(random.randrange(50, 2000)) / 100)
            for _ in range(rows[Fine])
        ),
    )


def loans_of(load: Load, copies: list[Any], cards: list[Any]) -> Iterator[Loan]:
    """Yield loans that begin after the last member joined. One in ten is not returned yet."""
    random = load.random
    for _ in range(load.rows[Loan]):
        lent_on = LENDING_STARTS + timedelta(days=random.randrange(LENDING_DAYS))
        is_out = random.randrange(10) == 0
        yield Loan(
            copy_id=random.choice(copies),
            card_id=random.choice(cards),
            lent_on=lent_on,
            returned_on=None if is_out else lent_on + timedelta(days=random.randrange(1, 60)),
        )


def load_reviews(load: Load, *, works: list[Any], authors: list[Any], branches: list[Any]) -> None:
    """Load reviews of works, authors and branches in turn."""
    random = load.random
    subjects = [
        (content_type_key(load.using, model), keys)
        for model, keys in ((Work, works), (Author, authors), (Branch, branches))
    ]

    def reviews() -> Iterator[Review]:
        for index in range(load.rows[Review]):
            content_type, keys = subjects[index % len(subjects)]
            yield Review(
                content_type_id=content_type,
                object_id=random.choice(keys),
                stars=random.randrange(1, 6),
                text=random.choice(OPINIONS),
            )

    load.insert(Review, reviews())


def content_type_key(using: str, model: type[Model]) -> Any:
    """Query the database instead of Django's cache, which may have content types that a reset has deleted since."""
    content_type, _ = ContentType._base_manager.using(using).get_or_create(
        app_label=model._meta.app_label, model=model._meta.model_name
    )
    return content_type.pk


BATCH_SIZE = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One run: the database, the number of rows of each model, the random numbers, and the function to call after each batch."""

    using: str
    rows: dict[type[Model], int]
    random: Random
    inserted: Inserted

    def insert(self, model: type[Row], rows: Iterable[Row]) -> list[Any]:
        """Insert the rows in batches as they are generated. Return their primary keys in that order."""
        write = self._insert_inherited if model._meta.parents else self._insert_batch
        keys: list[Any] = []
        remaining = iter(rows)
        while batch := list(islice(remaining, BATCH_SIZE)):
            write(model, batch)
            keys.extend(row.pk for row in batch)
            self.inserted(model, len(batch))
            if settings.DEBUG:
                # With DEBUG Django keeps the last 9,000 statements, and each of these has tens of kilobytes.
                reset_queries()
        return keys

    def _insert_batch(self, model: type[Row], batch: Sequence[Row]) -> None:
        model._base_manager.using(self.using).bulk_create(batch)

    def _insert_inherited(self, model: type[Row], batch: Sequence[Row]) -> None:
        """Insert only the rows in the table of a multi-table child. The rows of its parent models exist already.

        It uses SQL, because bulk_create refuses such models: the keys of the parent rows might not be known.
        """
        connection = connections[self.using]
        quote = connection.ops.quote_name
        fields = {field.column: field for field in model._meta.local_concrete_fields if field.column}
        values = [
            [field.get_db_prep_save(getattr(row, field.attname), connection) for field in fields.values()]
            for row in batch
        ]
        with connection.cursor() as cursor:
            cursor.executemany(
                f"INSERT INTO {quote(model._meta.db_table)} ({', '.join(map(quote, fields))}) "
                f"VALUES ({', '.join(['%s'] * len(fields))})",
                values,
            )


# Rows of each model: the minimum, and the share (in thousandths) of the rows beyond all minimums. Loans get the rest.
# Three relations hold at every size, because they hold for both columns: each book or film has its own work, each
# branch has staff to manage it, and no work needs the same genre twice (there are at least two genres).
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
    """Divide `size` rows among the models, referenced models first.

    The sum is exactly `size`, or SMALLEST_SIZE if `size` is less than that, so that each model has a row. A row is one
    row of a table. So a book counts as two, one of Work and one of Book.
    """
    beyond = max(size - SMALLEST_SIZE, 0)
    rows = {model: least + beyond * share // 1000 for model, (least, share) in SHARES.items()}
    rows[Loan] += SMALLEST_SIZE + beyond - sum(rows.values())
    return rows


ADJECTIVES = ("Silent", "Crooked", "Golden", "Last", "Hidden", "Northern", "Broken", "Patient")
NOUNS = ("River", "House", "Garden", "Winter", "Harbour", "Letter", "Mountain", "Orchard")
FIRST_NAMES = ("Ada", "Bela", "Chidi", "Dilan", "Edda", "Farah", "Goro", "Hanna")
LAST_NAMES = ("Abel", "Brandt", "Castro", "Diallo", "Eriksen", "Fontana", "Garcia", "Haddad")
OPINIONS = ("Would come again.", "Better than its cover.", "Too long by half.", "A quiet pleasure.")


def title(random: Random) -> str:
    """Return the title of a work."""
    return f"The {random.choice(ADJECTIVES)} {random.choice(NOUNS)}"


def person(random: Random) -> str:
    """Return the full name of a person."""
    return f"{random.choice(FIRST_NAMES)} {random.choice(LAST_NAMES)}"
