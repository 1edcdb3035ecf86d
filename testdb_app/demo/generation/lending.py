"""The rows of the lending: branches and staff, members, copies and loans, and what is said of it all."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.contrib.contenttypes.models import ContentType

from testdb_app.demo.generation.words import NOUNS, OPINIONS, person
from testdb_app.demo.models import (
    Author,
    Branch,
    Card,
    Copy,
    Fine,
    Loan,
    Member,
    Review,
    Staff,
    Work,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from django.db.models import Model

    from testdb_app.demo.generation.loading import Load

FIRST_MEMBER_JOINS = date(2000, 1, 1)
JOINING_DAYS = 3000
LENDING_STARTS = FIRST_MEMBER_JOINS + timedelta(days=JOINING_DAYS)
LENDING_DAYS = 6000


def load_branches(load: Load) -> list[Any]:
    """Load the branches without managers, then the staff, then make the first of each branch its manager."""
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
    """Load the members, whose keys the database does not give, and their cards; return the cards' numbers."""
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
    """Return the day on which a run's member joins; the days come round again."""
    return FIRST_MEMBER_JOINS + timedelta(days=index % JOINING_DAYS)


def member_key(key_block: int, index: int) -> UUID:
    """Return the key of a run's member: the block in its upper half, the index (below 2³²) in its lower."""
    return UUID(int=(key_block << 64) | index, version=4)


def load_loans(load: Load, *, works: list[Any], branches: list[Any], cards: list[Any]) -> None:
    """Load the copies, the loans of them to the cards, and the fines."""
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
    """Yield loans from after the last member joined. One in ten is still out."""
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
    """Ask the database, not Django's cache, which may hold content types that a reset has removed since."""
    content_type, _ = ContentType._base_manager.using(using).get_or_create(
        app_label=model._meta.app_label, model=model._meta.model_name
    )
    return content_type.pk
