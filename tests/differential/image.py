"""What a database holds: every row as its text and where it lies, every sequence, every switch. Read in one message."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

FUNCTION = "differential_looks.look"
"""A superuser's function: it reads with the superuser's eyes, which row security does not dim."""

# The answer has rows of (kind, name, …); see parse(). A row of a table that is long is told by its digest.
INSTALL = f"""
CREATE SCHEMA differential_looks;
GRANT USAGE ON SCHEMA differential_looks TO PUBLIC;
GRANT EXECUTE ON FUNCTION pg_stat_reset(), pg_stat_reset_single_table_counters(oid) TO PUBLIC;
CREATE FUNCTION {FUNCTION}(sequences boolean) RETURNS SETOF text[] LANGUAGE plpgsql SECURITY DEFINER
    SET extra_float_digits = 1 SET search_path = pg_catalog SET row_security = off SET bytea_output = 'hex'
    SET quote_all_identifiers = off SET DateStyle = 'ISO' SET IntervalStyle = 'postgres' SET TimeZone = 'UTC'
    SET lock_timeout = '5s' SET standard_conforming_strings = on SET client_min_messages = error AS $$
DECLARE
    r record;
BEGIN
    FOR r IN SELECT c.oid, c.relkind, format('%I.%I', n.nspname, c.relname) AS name, c.relfilenode::text AS node,
                    concat(c.relrowsecurity, c.relforcerowsecurity, c.relreplident) AS security
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
              WHERE c.oid >= 16384 AND c.relkind IN ('r', 'S') AND c.relpersistence <> 't' AND n.nspname <> 'testdb'
              ORDER BY c.oid LOOP
        IF r.relkind = 'r' THEN
            RETURN NEXT ARRAY['table', r.name, r.node, r.security];
            RETURN QUERY EXECUTE format(
                'SELECT ARRAY[''row'', %L, r.ctid::text, r.xmin::text, CASE WHEN length(r::text) < 300 THEN r::text '
                'ELSE left(r::text, 100) || md5(r::text) END] FROM ONLY %s r', r.name, r.name);
        ELSIF sequences THEN
            RETURN QUERY EXECUTE format(
                'SELECT ARRAY[''sequence'', %L, s.last_value::text, s.is_called::text, %L, q.seqstart::text] '
                'FROM %s s, pg_sequence q WHERE q.seqrelid = %s', r.name, r.node, r.name, r.oid);
        END IF;
    END LOOP;
    RETURN QUERY
        SELECT ARRAY['switch', concat_ws(' ', tgrelid, tgname, tgconstraint, tgtype), tgenabled::text]
          FROM pg_trigger WHERE tgrelid >= 16384
         UNION ALL
        SELECT ARRAY['switch', concat_ws(' ', ev_class, rulename), ev_enabled::text] FROM pg_rewrite WHERE ev_class >= 16384
         UNION ALL
        SELECT ARRAY['switch', concat_ws(' ', conrelid, conname), concat(condeferrable, condeferred, convalidated)]
          FROM pg_constraint WHERE conrelid >= 16384;
END$$;
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


def parse(rows: Iterable[list[str]]) -> Image:
    """Make an image of the rows of :data:`FUNCTION`."""
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
            nodes[name], switches[f"{name} row security and replica identity"] = rest
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
