"""Select tables by labels and patterns, and decide the scope: the tables and sequences that a reset may touch. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import translate

from testdb_app.baseline_state import MIGRATIONS_TABLE
from testdb_app.exceptions import UnknownNameError
from testdb_app.schema import LeftOut, QualifiedName, Schema, on_one_line

_PATTERN_CHARACTERS = frozenset("*?[")
_QUOTED = re.compile(r'"((?:[^"]|"")*)"(?:\."((?:[^"]|"")*)")?\Z')


def select_tables(
    schema: Schema,
    labels: Mapping[QualifiedName, tuple[str, ...]],
    patterns: Iterable[str],
) -> frozenset[QualifiedName]:
    """Return the tables that *patterns* name, with their partitions.

    A pattern is ``app_label``, ``app_label.Model`` (case does not matter), ``schema.table``, or one of them with the
    shell's ``*``, ``?`` and ``[…]``. A name that contains dots or pattern characters is written in double quotes:
    ``"my.schema"."a*b"``.

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
    hint = f"Did you mean {', '.join(dict.fromkeys(nearest))}?" if nearest else "Run showdeps to list the names."
    return UnknownNameError(
        f'"{on_one_line(pattern)}" matches no table: this database has no app label, app_label.Model or schema.table of '
        f"that name. {hint}",
        name=pattern,
        nearest=list(dict.fromkeys(nearest)),
    )


ALWAYS_KEPT = frozenset({MIGRATIONS_TABLE})
"""Names of tables that no reset touches, in any schema."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """The tables and sequences that a reset may touch. ``kept`` has the others, each with the reason."""

    tables: frozenset[QualifiedName]
    sequences: frozenset[QualifiedName]
    kept: tuple[LeftOut, ...]


def make_scope(
    schema: Schema,
    *,
    included: frozenset[QualifiedName] | None,
    excluded: frozenset[QualifiedName],
    uncaptured: frozenset[QualifiedName] = frozenset(),
    reset_sequences: bool,
) -> Scope:
    """Decide what a reset may touch.

    Parameters: *included*, None for every table; *excluded*, tables to keep; *uncaptured*, tables that the
    baseline does not contain; *reset_sequences*, whether sequences are in scope. A sequence is in scope if all tables
    that use it are; one that no table uses, if *included* is None.
    """
    tables: set[QualifiedName] = set()
    kept: list[LeftOut] = list(schema.left_out)
    for table in schema.tables:
        reason = None
        if table.extension:
            reason = f"belongs to the extension {table.extension}"
        elif table.name.name in ALWAYS_KEPT:
            reason = "kept always"
        elif table.name in excluded:
            reason = "excluded"
        elif table.name in uncaptured:
            reason = "excluded from the baseline"
        elif included is not None and table.name not in included:
            reason = "not named"
        if reason is None:
            tables.add(table.name)
        else:
            kept.append(LeftOut(name=table.name, reason=reason))
    sequences: set[QualifiedName] = set()
    for sequence in schema.sequences:
        outside = sorted(sequence.tables - tables)
        if sequence.extension or not reset_sequences or (not sequence.uses and included is not None):
            continue
        if outside:
            kept.append(LeftOut(name=sequence.name, reason=f"sequence of {outside[0]}, which stays"))
        else:
            sequences.add(sequence.name)
    return Scope(tables=frozenset(tables), sequences=frozenset(sequences), kept=tuple(sorted(kept)))
