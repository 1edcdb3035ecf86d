"""Write the formats ``tree`` and ``order``: the dependency graph as text for people and pipes.

Lines are broken between words, never inside a name, because two broken names could look equal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from testdb_app.schema import on_one_line
from testdb_app.showdeps.picture import action_of, cells, counted, notes, show_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from testdb_app.schema import ForeignKey, QualifiedName
    from testdb_app.showdeps.picture import Arrow, Cycle, Picture


class _Glyphs(NamedTuple):
    branch: str
    last: str
    bar: str
    arrow: str


_UNICODE = _Glyphs(branch="├─ ", last="└─ ", bar="│  ", arrow="→")
_ASCII = _Glyphs(branch="|- ", last="`- ", bar="|  ", arrow="->")
GLYPHS = "".join(_UNICODE)
"""The characters that a terminal must be able to show. Otherwise ``ascii_only`` is needed."""


class _Word(NamedTuple):
    """A text that stays on one line, its colour, and the number of spaces before it."""

    text: str
    paint: Callable[[str], str]
    spaces: int = 2


def render_tree(picture: Picture) -> str:
    """Draw the picture for a terminal. It is at most ``width`` columns wide, unless a name is too long."""
    sections = [_header(picture)]
    if picture.cycles_only:
        sections += [_cycle_section(cycle, picture) for cycle in picture.cycles]
    else:
        sections += [_level_section(number, names, picture) for number, names in picture.levels]
        if picture.cycles:
            sections.append(_cycle_list(picture))
    if picture.models_without_table and not picture.cycles_only:
        sections.append(_missing_tables(picture))
    return "\n".join("".join(f"{line}\n" for line in section) for section in sections)


def _header(picture: Picture) -> Iterator[str]:
    number, total = len(picture.tables), len({picture.root(table.name) for table in picture.whole.tables})
    tables = counted(number, "table") if number == total else f"{number:,} of {counted(total, 'table')}"
    keys, cycles = counted(len(picture.keys), "foreign key"), counted(len(picture.cycles), "cycle")
    yield picture.paint.heading(on_one_line(picture.title))
    yield f"{tables}, {keys}, {cycles}"
    if not picture.cycles_only:
        order = "Referenced tables first: the order to insert in."
        yield order if picture.reverse else "Referencing tables first: the order to delete in."
    if about := [_Word(sentence, str, 1) for sentence in _about_keys(picture)]:
        yield from _flow(about, picture.width, hang="")


def _about_keys(picture: Picture) -> Iterator[str]:
    """Say once what holds for most of the keys."""
    if any(_on_delete(key, picture) for key in picture.keys):
        yield "After a key: Django's on_delete."
    if picture.usual_action is not None:
        yield f"In the database, unless noted: {picture.usual_action}."


def _on_delete(key: ForeignKey, picture: Picture) -> str | None:
    return picture.on_delete.get((picture.root(key.table), key.columns))


def _level_section(number: int, names: Iterable[QualifiedName], picture: Picture) -> Iterator[str]:
    yield picture.paint.heading(f"Level {number}")
    for name in names:
        yield from _table(name, picture)


def _table(name: QualifiedName, picture: Picture) -> Iterator[str]:
    paint = picture.paint
    words = [_Word(str(name), paint.table, 0)]
    words += [_Word(label, paint.model) for label in picture.labels.get(name, ())]
    words += [_Word(note, paint.warning) for note in _warnings(name, picture)]
    words += [_Word(f"({note})", str) for note in notes(name, picture)]
    if cycle := picture.cycle_of.get(name):
        words.append(_cycle_word(cycle, picture))
    yield from _flow(words, picture.width, first="  ", hang="      ")
    rows = [[*_owner(arrow), *_key_words(arrow.key, picture)] for arrow in picture.arrows_of.get(name, ())]
    for row, arrow in zip(rows, picture.arrows_of.get(name, ()), strict=True):
        if cycle := picture.cycle_of_key(arrow.key):
            row.append(_cycle_word(cycle, picture))
    yield from _branches(rows, picture)


def _branches(rows: Sequence[Sequence[_Word]], picture: Picture) -> Iterator[str]:
    glyphs = _glyphs(picture)
    for row in rows:
        is_last = row is rows[-1]
        first = "  " + (glyphs.last if is_last else glyphs.branch)
        hang = "  " + (" " * len(glyphs.bar) if is_last else glyphs.bar) + "    "
        yield from _flow(row, picture.width, first=first, hang=hang)


def _owner(arrow: Arrow) -> Iterator[_Word]:
    if len(arrow.keys) > 1:
        yield _Word(f"{counted(len(arrow.keys), 'partition')}:", str, 0)
    elif arrow.key.table != arrow.source:
        yield _Word(f"partition {arrow.key.table!s}:", str, 0)


def _key_words(key: ForeignKey, picture: Picture, table: str = "") -> Iterator[_Word]:
    paint = picture.paint
    columns = f"{table}({show_parts(key.columns)})" if table else show_parts(key.columns)
    yield _Word(f"{columns} {_glyphs(picture).arrow}", paint.column, 1)
    yield _Word(str(picture.root(key.referenced)), paint.table, 1)
    on_delete, action = _on_delete(key, picture), action_of(key)
    if on_delete is not None:
        yield _Word(on_delete, str)
    if action != picture.usual_action:
        yield _Word(action if on_delete is None else f"(in the database: {action})", str)


def _glyphs(picture: Picture) -> _Glyphs:
    return _ASCII if picture.ascii_only else _UNICODE


def _warnings(name: QualifiedName, picture: Picture) -> Iterator[str]:
    if name in picture.tables_without_model:
        yield "[no model]"


def _cycle_word(cycle: Cycle, picture: Picture) -> _Word:
    return _Word(f"[cycle {cycle.number}]", picture.paint.cycle if cycle.deferrable else picture.paint.warning)


def _cycle_list(picture: Picture) -> Iterator[str]:
    yield picture.paint.heading("Cycles")
    for cycle in picture.cycles:
        words = [*_ring(cycle, picture), _deferrability(cycle, picture, spaces=2)]
        yield from _flow(words, picture.width, first=f"  {cycle.number}  ", hang="       ")


def _ring(cycle: Cycle, picture: Picture) -> Iterator[_Word]:
    arrow = _glyphs(picture).arrow
    names = [picture.root(key.table) for key in cycle.ring]
    for name in names:
        yield _Word(f"{name!s} {arrow}", picture.paint.table, 1)
    yield _Word(str(names[0]) if len(names) > 1 else "itself", picture.paint.table, 1)
    rest = len(cycle.tables) - len(names)
    if rest > 0:
        yield _Word(f"and {counted(rest, 'more table')}", str)


def _deferrability(cycle: Cycle, picture: Picture, spaces: int) -> _Word:
    if cycle.deferrable:
        return _Word("deferrable", str, spaces)
    return _Word("not deferrable", picture.paint.warning, spaces)


def _cycle_section(cycle: Cycle, picture: Picture) -> Iterator[str]:
    counts = f"{counted(len(cycle.tables), 'table')}, {counted(len(cycle.keys), 'foreign key')}"
    heading = _Word(f"Cycle {cycle.number}: {counts},", picture.paint.heading, 0)
    yield from _flow([heading, _deferrability(cycle, picture, spaces=1)], picture.width, hang="  ")
    rows = [list(_key_words(key, picture, str(key.table))) for key in cycle.keys]
    yield from _branches(rows, picture)


def _missing_tables(picture: Picture) -> Iterator[str]:
    yield picture.paint.heading("Models without a table")
    for label, db_table in picture.models_without_table:
        reason = "unmanaged, perhaps a view" if label in picture.unmanaged else "not migrated"
        words = [
            _Word(label, picture.paint.model, 0),
            _Word(on_one_line(db_table), picture.paint.warning),
            _Word(f"({reason})", str),
        ]
        yield from _flow(words, picture.width, first="  ", hang="      ")


def _flow(words: Iterable[_Word], width: float, *, first: str = "", hang: str) -> Iterator[str]:
    """Fill lines of *width* columns with *words*. The first line is indented by *first*, the others by *hang*."""
    line, used, is_empty = first, cells(first), True
    for word in words:
        spaces = 0 if is_empty else word.spaces
        size = cells(word.text)
        if not is_empty and used + spaces + size > width:
            yield line
            line, used, spaces = hang, cells(hang), 0
        line += " " * spaces + word.paint(word.text)
        used += spaces + size
        is_empty = False
    yield line


def render_order(picture: Picture) -> str:
    """List every shown table and partition in the order to delete in; with ``reverse``, in the order to insert in.

    Names are written as in SQL: in double quotes where necessary, and with ``U&"…"`` for invisible characters. So each
    line is exactly one table.
    """
    return "".join(f"{name!s}\n" for name in picture.order)
