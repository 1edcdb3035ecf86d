"""What a picture says of a table besides its name: partitions, where it comes from, how it is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from testdb_app.rendering.names import counted
from testdb_app.schema import TableKind, show_part

if TYPE_CHECKING:
    from collections.abc import Iterator

    from testdb_app.rendering.picture import Picture
    from testdb_app.schema import QualifiedName


def notes(name: QualifiedName, picture: Picture) -> Iterator[str]:
    """Yield what is not plain about a table, in a few words each."""
    table = picture.whole.by_name[name]
    if table.kind is TableKind.PARTITIONED:
        yield counted(picture.partition_counts.get(name, 0), "partition")
    if table.kind is TableKind.VIRTUAL:
        yield "virtual"
    if table.inherits:
        verb = "partition of" if table.is_partition else "inherits"
        yield f"{verb} {', '.join(map(str, table.inherits))}"
    if table.extension is not None:
        yield f"extension {show_part(table.extension)}"
    if table.unlogged:
        yield "unlogged"
    if not picture.unmanaged.isdisjoint(picture.labels.get(name, ())):
        yield "unmanaged"
