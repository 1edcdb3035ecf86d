"""Adding one generated library to a database."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from django.db import transaction

from testdb_app.demo.generation.catalogue import load_catalogue
from testdb_app.demo.generation.lending import (
    load_branches,
    load_loans,
    load_members,
    load_reviews,
    member_key,
)
from testdb_app.demo.generation.loading import Load
from testdb_app.demo.models import Member

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.db.models import Model


def load_library(*, using: str, seed: int, rows: dict[type[Model], int], advance: Callable[[int], None]) -> None:
    """Add `rows` of each model to the database `using`, in one transaction.

    Rows that are there already stay as they are. The same seed on the same database content gives the same
    rows. `advance` is called with the number of rows after each batch. Memory is needed for the primary keys
    only, some tens of bytes a row. Raises what Django's database layer raises; then nothing has been added.
    """
    with transaction.atomic(using=using):
        key_block, random = unused_key_block(using, seed)
        load = Load(using=using, rows=rows, random=random, advance=advance)
        works, authors = load_catalogue(load)
        branches = load_branches(load)
        cards = load_members(load, key_block)
        load_loans(load, works=works, branches=branches, cards=cards)
        load_reviews(load, works=works, authors=authors, branches=branches)


def unused_key_block(using: str, seed: int) -> tuple[int, Random]:
    """Return the seed's first block of member keys that no run took yet, and the numbers that go with it.

    The database gives all other keys. A member's has to be made up: the same from the same seed, and yet not
    one that an earlier run took.
    """
    run = 0
    while True:
        random = Random(f"{seed}:{run}")  # noqa: S311 - it has to be repeatable, not secret
        key_block = random.getrandbits(64)
        block_ends = (member_key(key_block, 0), member_key(key_block, 2**32 - 1))
        if not Member._base_manager.using(using).filter(pk__range=block_ends).exists():
            return key_block, random
        run += 1
