"""Which tables are meant: labels of apps and models, qualified names, and shell patterns of both.

Pure: the schema's tables and the models' labels come in, a set of tables goes out.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from fnmatch import translate

from testdb_app.exceptions import UnknownNameError
from testdb_app.naming import on_one_line
from testdb_app.schema import QualifiedName, Schema

_PATTERN_CHARACTERS = frozenset("*?[")
_QUOTED = re.compile(r'"((?:[^"]|"")*)"(?:\."((?:[^"]|"")*)")?\Z')


def select_tables(
    schema: Schema,
    labels: Mapping[QualifiedName, tuple[str, ...]],
    patterns: Iterable[str],
) -> frozenset[QualifiedName]:
    """Return the tables that *patterns* name.

    A pattern is ``app_label``, ``app_label.Model`` (case does not matter), ``schema.table``, or one of them with the
    shell's ``*``, ``?`` and ``[…]``. A name with dots or pattern characters of its own is written in double quotes:
    ``"my.schema"."a*b"``. Partitions follow the table that they are partitions of.

    *labels* maps a table to its models' labels, ``app_label.Model``.
    Raises :class:`UnknownNameError`, with the nearest names, for a pattern that matches nothing.
    """
    found: set[QualifiedName] = set()
    for pattern in patterns:
        matched = {table.name for table in schema.tables if _matches(pattern, table.name, labels.get(table.name, ()))}
        if not matched:
            raise _unknown(pattern, schema, labels)
        found |= matched
    return frozenset(_with_partitions(schema, found))


def _matches(pattern: str, name: QualifiedName, labels: tuple[str, ...]) -> bool:
    quoted = _QUOTED.match(pattern)
    if quoted:
        first, second = (part.replace('""', '"') if part is not None else None for part in quoted.groups())
        return name.name == first if second is None else (name.schema, name.name) == (first, second)
    if pattern in {f"{name.schema}.{name.name}", str(name)}:
        return True
    candidates = list(labels)
    if "." not in pattern:
        candidates = [label.partition(".")[0] for label in labels]
    if not _PATTERN_CHARACTERS & set(pattern):
        return pattern.lower() in {candidate.lower() for candidate in candidates}
    if any(re.match(translate(pattern.lower()), candidate.lower()) for candidate in candidates):
        return True
    return "." in pattern and re.match(translate(pattern), f"{name.schema}.{name.name}") is not None


def _with_partitions(schema: Schema, names: Iterable[QualifiedName]) -> set[QualifiedName]:
    found = set(names)
    work = list(found)
    while work:
        for partition in schema.partitions.get(work.pop(), ()):
            if partition not in found:
                found.add(partition)
                work.append(partition)
    return found


def _unknown(pattern: str, schema: Schema, labels: Mapping[QualifiedName, tuple[str, ...]]) -> UnknownNameError:
    names = {str(table.name) for table in schema.tables}
    names |= {label for models in labels.values() for label in models}
    names |= {label.partition(".")[0] for models in labels.values() for label in models}
    by_case = {name.lower(): name for name in sorted(names)}
    by_case |= {table.name.name.lower(): str(table.name) for table in schema.tables}
    nearest = [by_case[name] for name in difflib.get_close_matches(pattern.lower(), by_case, n=3, cutoff=0.5)]
    hint = f"Did you mean {', '.join(dict.fromkeys(nearest))}?" if nearest else "showdeps lists the names there are."
    return UnknownNameError(
        f'"{on_one_line(pattern)}" matches no table: no app label, app_label.Model or schema.table of that name in this '
        f"database. {hint}",
        name=pattern,
        nearest=list(dict.fromkeys(nearest)),
    )
