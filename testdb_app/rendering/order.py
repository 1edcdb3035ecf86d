"""``order``: one qualified table a line, in the order to delete in."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from testdb_app.rendering.picture import Picture


def render(picture: Picture) -> str:
    """List every table that is shown, partitions too; with ``reverse`` in the order to insert in.

    Names are written as in SQL: in double quotes where they need them, with ``U&"…"`` where they hold what
    cannot be seen. So a line is always one table.
    """
    return "".join(f"{name!s}\n" for name in picture.order)
