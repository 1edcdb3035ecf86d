"""Files of rows that Django has no loader for: CSV and SQL."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from testdb_app.exceptions import DataError

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper


def read_csv(path: Path) -> Iterator[dict[str, str]]:
    """Yield a dict for each line of a CSV file in UTF-8, by the names in its first line.

    Raises :class:`~testdb_app.exceptions.DataError` for a line that has more or fewer values than there are names.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, strict=True)
        names = next(rows, [])
        for row in rows:
            if row and len(row) != len(names):
                raise DataError(
                    f"{path}, line {rows.line_num}: {len(row)} values for {len(names)} names ({', '.join(names)}). Nothing was "
                    "loaded."
                )
            if row:
                yield dict(zip(names, row, strict=True))


def run_sql_file(path: Path, connection: BaseDatabaseWrapper) -> None:
    """Run the statements of a file, as Django splits them; ``%`` in them is literal."""
    with connection.cursor() as cursor:
        for statement in connection.ops.prepare_sql_script(path.read_text("utf-8")):
            cursor.execute(statement, None)
