"""Inserting many rows in little memory."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from django.conf import settings
from django.db import connections, reset_queries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from random import Random

    from django.db.models import Model

    Row = TypeVar("Row", bound=Model)

BATCH_SIZE = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One run: where the rows go, how many of each model, what they are drawn from, who hears of progress.

    `advance` is called with the number of rows after each batch, BATCH_SIZE at most.
    """

    using: str
    rows: dict[type[Model], int]
    random: Random
    advance: Callable[[int], None]

    def insert(self, model: type[Row], rows: Iterable[Row]) -> list[Any]:
        """Insert the rows batch by batch as they are generated; return their primary keys in that order."""
        write = self._insert_inherited if model._meta.parents else self._insert_batch
        keys: list[Any] = []
        remaining = iter(rows)
        while batch := list(islice(remaining, BATCH_SIZE)):
            write(model, batch)
            keys.extend(row.pk for row in batch)
            self.advance(len(batch))
            if settings.DEBUG:
                # Django keeps the last 9,000 statements then, and each of these is tens of kilobytes long.
                reset_queries()
        return keys

    def _insert_batch(self, model: type[Row], batch: Sequence[Row]) -> None:
        model._base_manager.using(self.using).bulk_create(batch)

    def _insert_inherited(self, model: type[Row], batch: Sequence[Row]) -> None:
        """Insert a multi-table child's own rows only; those of the models it inherits from are there already.

        By SQL, because bulk_create refuses such models: the keys of the inherited rows might not be known.
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
