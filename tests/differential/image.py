"""What a database holds: every row as its text and where it lies, every sequence, every switch. Read in one message."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from testdb_app.backends.postgresql.quoting import quote, quote_literal

FUNCTION = "differential_looks.look"
"""A superuser's function that runs a query with the superuser's eyes, which row security does not dim."""

INSTALL = f"""
CREATE SCHEMA differential_looks;
CREATE FUNCTION {FUNCTION}(query text) RETURNS SETOF text[] LANGUAGE plpgsql SECURITY DEFINER
    SET extra_float_digits = 1 SET search_path = pg_catalog SET row_security = off SET bytea_output = 'hex'
    SET quote_all_identifiers = off SET DateStyle = 'ISO' SET IntervalStyle = 'postgres' SET TimeZone = 'UTC'
    SET lock_timeout = '5s' SET standard_conforming_strings = on
    AS $$BEGIN RETURN QUERY EXECUTE query; END$$;
GRANT USAGE ON SCHEMA differential_looks TO PUBLIC;
"""

_OURS = "('information_schema', 'testdb', 'differential_looks')"

# kind, schema, name, file node, row security, forced
RELATIONS = f"""
SELECT c.relkind::text, n.nspname::text, c.relname::text, c.relfilenode::text,
       concat(c.relrowsecurity, c.relforcerowsecurity)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'S') AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname NOT IN {_OURS}
"""
_WHOSE = (
    f"IN (SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relpersistence <> 't' "
    f"AND n.nspname !~ '^pg_' AND n.nspname NOT IN {_OURS})"
)
# What may be switched, and how it is.
SWITCHES = f"""
SELECT ARRAY['switch', concat_ws(' ', tgrelid::regclass, tgname), tgenabled::text] FROM pg_trigger
 WHERE NOT tgisinternal AND tgrelid {_WHOSE}
 UNION ALL
SELECT ARRAY['switch', concat_ws(' ', tgrelid::regclass, tgconstraint, tgtype, 'internal'), tgenabled::text] FROM pg_trigger
 WHERE tgisinternal AND tgrelid {_WHOSE}
 UNION ALL
SELECT ARRAY['switch', concat_ws(' ', ev_class::regclass, rulename), ev_enabled::text] FROM pg_rewrite
 WHERE ev_class {_WHOSE}
 UNION ALL
SELECT ARRAY['switch', concat_ws(' ', conrelid::regclass, oid, conname), concat(condeferrable, condeferred, convalidated)]
  FROM pg_constraint WHERE conrelid {_WHOSE}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One look. ``rows`` are texts by table, ``places`` (ctid, xmin, file node), ``sequences`` (last_value, is_called)."""

    rows: Mapping[str, Counter[str]]
    places: Mapping[str, tuple[Any, ...]]
    sequences: Mapping[str, tuple[str, str]]
    files: Mapping[str, str]
    starts: Mapping[str, tuple[str, str]]
    switches: Mapping[str, str]

    def content(self) -> dict[str, Any]:
        """What a reset must bring back."""
        return {**self.rows, **self.sequences}

    def differences(self, other: Image) -> str:
        """Say what is in *other* and not here, and the other way round; empty where the content is equal."""
        return "\n".join(_differences(self.content(), other.content()))


def emptied(image: Image) -> Image:
    """Return what a reset to no rows must leave of *image*."""
    return replace(image, rows={name: Counter() for name in image.rows}, sequences=image.starts)


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted({*before, *after}):
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        if isinstance(old, Counter) and isinstance(new, Counter):
            missing, extra = _some(old - new), _some(new - old)
            what = "changed" if missing and extra else "missing" if missing else "too many"
            yield f"rows {what} in {name}: missing {missing}, too many {extra}"
        else:
            yield f"moved {name}: was {old}, is {new}"


def _some(rows: Counter[str]) -> list[str]:
    return [row[:200] for row in sorted(rows.elements())[:5]]


def content_query(relations: Iterable[tuple[str, ...]], *, sequences: bool) -> str:
    """Write the query for :func:`parse`. Reading a *sequences* counts as a call of it."""
    parts = [SWITCHES]
    for kind, schema, name, node, security in relations:
        qualified = f"{quote(schema)}.{quote(name)}"
        label = quote_literal(qualified)
        if kind == "r":
            parts.append(f"SELECT ARRAY['table', {label}, '{node}', '{security}']")
            parts.append(
                f"SELECT ARRAY['row', {label}, r.ctid::text, r.xmin::text, "
                "CASE WHEN length(r::text) < 300 THEN r::text ELSE left(r::text, 100) || md5(r::text) END] "
                f"FROM ONLY {qualified} r"
            )
        elif sequences:
            start = f"(SELECT seqstart::text FROM pg_sequence WHERE seqrelid = {label}::regclass)"
            parts.append(
                f"SELECT ARRAY['sequence', {label}, last_value::text, is_called::text, '{node}', {start}] FROM {qualified}"
            )
    return "\nUNION ALL\n".join(parts)


def parse(rows: Iterable[list[str]]) -> Image:
    """Make an image of the rows of :func:`content_query`."""
    texts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    places: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    nodes: dict[str, str] = {}
    sequences: dict[str, tuple[str, str]] = {}
    starts: dict[str, tuple[str, str]] = {}
    files: dict[str, str] = {}
    switches: dict[str, str] = {}
    for kind, name, *rest in rows:
        if kind == "row":
            texts[name][rest[2]] += 1
            places[name].append((rest[0], rest[1]))
        elif kind == "table":
            nodes[name], switches[f"{name} row security"] = rest
        elif kind == "sequence":
            sequences[name], files[name], starts[name] = (rest[0], rest[1]), rest[2], (rest[3], "false")
        else:
            switches[name] = rest[0]
    return Image(
        rows={name: texts[name] for name in nodes},
        places={name: (node, *sorted(places[name])) for name, node in nodes.items()},
        sequences=sequences,
        files=files,
        starts=starts,
        switches=switches,
    )
