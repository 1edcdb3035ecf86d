"""Putting a baseline's rows back, as PostgreSQL's SQL. Pure: nothing is sent from here.

A table is compared with its copy by a full join on its key, and only the rows that differ are written: those that came
are deleted, those that changed are updated in place, those that went are inserted. Rows are compared byte by byte
(record_image_ne, the operator ``*<>``), so that every type has an answer, also those without equality. A table without a key is
compared by the text of its rows, numbered among their equals.

A copy has columns of PostgreSQL's own types only, and no collation of the user's, so that nothing of the user's can be held
by it: a domain is kept as what it is made of, any other type of the user's as its text, which is compared as it is and cast
back where it is written. Keys are compared by the operators of their own index, wherever these are.

Tables that foreign keys tie together at once (not deferrable, or RESTRICT) are one statement: the checks run at its end.
Inside it deletions come first, then updates, then insertions, because unique keys are checked row by row; each part
reads the count of the ones before, which makes PostgreSQL finish those first. In one statement all parts see the same
snapshot, so that none is confused by another.

What a function in a CHECK, or in an index, reads of other tables ties them too, and no catalog tells of it. Where a
constraint refuses a row, a block of PL/pgSQL goes on without it and tries it again when others are back, until nothing
more can be put back. Rows that did not change are never written, so that they may violate a constraint that is NOT VALID.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Many

from testdb_app.backends.base import Statement
from testdb_app.backends.postgresql.preconditions import DAMAGE, counted_or_damaged
from testdb_app.backends.postgresql.quoting import EQUALS, equals, quote, quote_literal
from testdb_app.baseline_state import Baseline, BaselineColumn, BaselineTable
from testdb_app.schema import QualifiedName


def needs_exact_text(table: BaselineTable) -> bool:
    """Whether rows of the table are compared by a text, which depends on the session's settings."""
    return not table.key or any(column.type for column in table.columns)


def copy(table: BaselineTable) -> str:
    """Write the making of a table's copy. The role's own access method and tablespace have no part in it."""
    columns = ", ".join(f"{_kept(column, 't', neutral=True)} AS {quote(column.name)}" for column in table.columns)
    return (
        f"CREATE TABLE {quote(table.copy)} USING heap TABLESPACE pg_default "
        f"AS SELECT {columns} FROM ONLY {quote(table.name)} AS t"
    )


def count_unreadable(table: BaselineTable) -> str | None:
    """Write the query of how many kept texts do not give the same text again; None where there is none that may not."""
    changed = [
        f'{_live(column, "c")}::{column.kept_as} COLLATE "C" OPERATOR(pg_catalog.<>) c.{quote(column.name)} COLLATE "C"'
        for column in table.columns
        if column.type
    ]
    return f"SELECT pg_catalog.count(*) FROM {quote(table.copy)} AS c WHERE {' OR '.join(changed)}" if changed else None


def _kept(column: BaselineColumn, source: str, *, neutral: bool = False) -> str:
    """Write the value of a live column as its copy keeps it; *neutral*, without its collation, which the copy would depend on."""
    value = f"{source}.{quote(column.name)}"
    if column.kept_as:
        value = f"{value}::{column.kept_as}"
    return f'{value} COLLATE "C"' if neutral and (column.type or column.collation) else value


def _live(column: BaselineColumn, source: str) -> str:
    """Write the value of a column of the copy as the live one."""
    value = f"{source}.{quote(column.name)}"
    if column.type:
        value = f"{value}::{column.type}"
    return f"({value} COLLATE {column.collation})" if column.collation else value


def live_value(table: BaselineTable, column: str, source: str) -> str:
    """Write the value that *column* of the copy, called *source*, stands for."""
    return _live(next(found for found in table.columns if found.name == column), source)


def comparable_rows(table: BaselineTable) -> str:
    """Write the rows of the table itself with the types that its copy has."""
    values = ", ".join(f"{_kept(column, 't', neutral=True)} AS {quote(column.name)}" for column in table.columns)
    return f"(SELECT {values} FROM ONLY {quote(table.name)} AS t)"


def comparable_operators(table: BaselineTable) -> tuple[str, ...]:
    """Return the operators by which the key's values are equal as its copy has them: texts, where they are kept so."""
    texts = {column.name for column in table.columns if column.type}
    return tuple(EQUALS if name in texts else table.operator(name) for name in table.key)


def _same_key(table: BaselineTable, names: Iterable[str]) -> str:
    """Write the condition under which a row ``t`` of the table and one ``c`` of its copy have the same key."""
    return " AND ".join(f"t.{quote(name)} {table.operator(name)} {live_value(table, name, 'c')}" for name in names)


def restore(
    names: Many[QualifiedName], baseline: Baseline, *, truncated: frozenset[QualifiedName] = frozenset()
) -> Statement:
    """Write the one statement that puts tables back to *baseline*: to no rows where it has none of them.

    Into those *truncated* just before it only inserts: the server may refuse to delete from them, and to update them.
    """
    kept = [baseline.tables.get(name) for name in names]
    written = [number for number, name in enumerate(names) if name not in truncated]
    parts: list[str] = []
    for number in written:
        name, table = names[number], kept[number]
        if table is None:
            parts.append(f"d{number} AS (DELETE FROM ONLY {quote(name)} RETURNING 1)")
        else:
            parts.append(f"x{number} AS MATERIALIZED ({_differences(table)})")
            parts.append(
                f"d{number} AS (DELETE FROM ONLY {quote(name)} "
                f"WHERE {equals('ctid', _found(number, 'old', 'new IS NULL'))} RETURNING 1)"
            )
    first = _after("d", written, parts)
    updates = [number for number in written if (table := kept[number]) is not None and table.key]
    for number in updates:
        table = kept[number]
        assert table is not None
        if update := _update(table, number, first):
            parts.append(f"u{number} AS ({update})")
        else:
            parts.append(f"u{number} AS (SELECT 1 WHERE false)")
    then = [part for part in (first, _after("u", updates, parts)) if part]
    for number, table in enumerate(kept):
        if table is not None:
            missing = [equals("c.ctid", _found(number, "new", "old IS NULL"))] if number in written else []
            where = f" WHERE {' AND '.join([*missing, *then])}" if missing or then else ""
            parts.append(f"n{number} AS ({_insert(table)}{where} RETURNING 1)")
    return Statement(
        sql="WITH " + ",\n".join(parts) + "\nSELECT " + ", ".join(_counts(kept, written)),
        changes=tuple(names),
    )


def count_changes(table: BaselineTable) -> str:
    """Write the query that counts the rows that came, that changed and that went."""
    return (
        "SELECT pg_catalog.count(*) FILTER (WHERE new IS NULL), "
        "pg_catalog.count(*) FILTER (WHERE old IS NOT NULL AND new IS NOT NULL), "
        f"pg_catalog.count(*) FILTER (WHERE old IS NULL) FROM ({_differences(table)}) x"
    )


def rewrite(
    names: Many[QualifiedName], baseline: Baseline, *, truncated: frozenset[QualifiedName] = frozenset()
) -> Iterator[Statement]:
    """Write two statements that delete all rows of the tables and insert the baseline's: what always works."""
    deleted = [name for name in names if name not in truncated]
    if deleted:
        deletes = ",\n".join(f"d{n} AS (DELETE FROM ONLY {quote(name)} RETURNING 1)" for n, name in enumerate(deleted))
        yield Statement(
            sql=f"WITH {deletes}\nSELECT "
            + ", ".join(f"(SELECT pg_catalog.count(*) FROM d{n}), 0, 0" for n in range(len(deleted))),
            changes=tuple(deleted),
        )
    kept = [baseline.tables[name] for name in names if name in baseline.tables]
    inserts = ",\n".join(f"n{n} AS ({_insert(table)} RETURNING 1)" for n, table in enumerate(kept))
    yield Statement(
        sql=f"WITH {inserts}\nSELECT "
        + ", ".join(
            _with_proof(table, "0") + f", 0, (SELECT pg_catalog.count(*) FROM n{n})" for n, table in enumerate(kept)
        ),
        changes=tuple(table.name for table in kept),
    )


def _differences(table: BaselineTable) -> str:
    """Select the places of rows that differ: ``old`` in the table, ``new`` in the copy, NULL where there is none."""
    columns = [column for column in table.columns if not column.is_generated]
    left = ", ".join(_kept(column, "t") for column in columns)
    right = ", ".join(f"c.{quote(column.name)}" for column in columns)
    if not table.key:
        rows = (
            "SELECT {side}.ctid, {image} AS image, pg_catalog.row_number() OVER (PARTITION BY {image}) AS number "
            "FROM {source} AS {side}"
        )
        text = 'ROW({})::pg_catalog.text COLLATE "C"'.format
        old = rows.format(side="t", image=text(left), source=f"ONLY {quote(table.name)}")
        new = rows.format(side="c", image=text(right), source=quote(table.copy))
        return (
            f"SELECT t.ctid AS old, c.ctid AS new FROM ({old}) AS t FULL JOIN ({new}) AS c "
            f"ON {equals('t.image', 'c.image')} AND {equals('t.number', 'c.number')} WHERE t.ctid IS NULL OR c.ctid IS NULL"
        )
    # Of a column that no UPDATE can set, another value is another row.
    on = dict.fromkeys([*table.key, *(column.name for column in table.columns if column.is_fixed)])
    return (
        f"SELECT t.ctid AS old, c.ctid AS new FROM ONLY {quote(table.name)} AS t FULL JOIN {quote(table.copy)} AS c "
        f"ON {_same_key(table, on)} "
        f"WHERE t.ctid IS NULL OR c.ctid IS NULL OR pg_catalog.record_image_ne(ROW({left}), ROW({right}))"
    )


def _update(table: BaselineTable, number: int, condition: str) -> str | None:
    columns = [column for column in table.columns if not (column.is_generated or column.is_fixed)]
    if not columns:
        return None
    changed = "old IS NOT NULL AND new IS NOT NULL"
    values = ", ".join(f"{quote(column.name)} = {_live(column, 'c')}" for column in columns)
    return (
        f"UPDATE ONLY {quote(table.name)} AS t SET {values} "
        f"FROM {quote(table.copy)} AS c WHERE {equals('t.ctid', _found(number, 'old', changed))} "
        f"AND {equals('c.ctid', _found(number, 'new', changed))} "
        f"AND {_same_key(table, table.key)} AND {condition} RETURNING 1"
    )


def _insert(table: BaselineTable) -> str:
    columns = [column for column in table.columns if not column.is_generated]
    listed = f" ({', '.join(quote(column.name) for column in columns)})" if columns else ""
    values = ", ".join(_live(column, "c") for column in columns)
    # Without it a column GENERATED ALWAYS AS IDENTITY takes no value.
    overriding = " OVERRIDING SYSTEM VALUE" if any(column.is_fixed for column in table.columns) else ""
    return f"INSERT INTO {quote(table.name)}{listed}{overriding} SELECT {values} FROM {quote(table.copy)} AS c"


def _with_proof(table: BaselineTable, value: str) -> str:
    return counted_or_damaged(
        quote(table.copy), quote_literal(f"{table.copy}, the copy of {table.name},"), table.rows, value
    )


def checksum(table: BaselineTable) -> str:
    """Write the query of the number of rows in a table's copy, and of their checksum, which no order changes.

    It is the sum of 64-bit hashes of the rows: of values of which one hash stands for one value, and of the text of others.
    """
    values = ", ".join(
        f"c.{quote(column.name)}" if column.is_exact else f"c.{quote(column.name)}::pg_catalog.text"
        for column in table.columns
    )
    return (
        f"SELECT pg_catalog.count(*), pg_catalog.sum(pg_catalog.hash_record_extended(ROW({values}), 0))::pg_catalog.text "
        f"FROM {quote(table.copy)} AS c"
    )


def _found(number: int, place: str, condition: str) -> str:
    return f"ANY (ARRAY(SELECT {place} FROM x{number} WHERE {condition}))"


def _after(kind: str, numbers: Many[int], parts: list[str]) -> str:
    """A condition that is always true, and that makes PostgreSQL finish those parts of the statement first.

    Many are counted once, in a part of their own: each part that comes after them would repeat all their counts.
    """
    if not numbers:
        return ""
    counted = f"{kind}{numbers[0]}"
    if len(numbers) > 1:
        rows = " UNION ALL ".join(f"SELECT FROM {kind}{number}" for number in numbers)
        counted = f"all_{kind}"
        parts.append(f"{counted} AS MATERIALIZED (SELECT pg_catalog.count(*) AS rows FROM ({rows}) r)")
    return f"(SELECT pg_catalog.count(*) FROM {counted}) OPERATOR(pg_catalog.>=) 0"


def _counts(kept: Many[BaselineTable | None], written: Many[int]) -> Iterator[str]:
    for number, table in enumerate(kept):
        deletes = number in written
        removed = f"(SELECT pg_catalog.count(*) FROM d{number})" if deletes else "0"
        yield removed if table is None else _with_proof(table, removed)
        yield f"(SELECT pg_catalog.count(*) FROM u{number})" if deletes and table is not None and table.key else "0"
        yield f"(SELECT pg_catalog.count(*) FROM n{number})" if table is not None else "0"


REFUSED_ROW = "TDB01"
"""The SQLSTATE of a row that cannot be put back in any order; the detail is JSON."""

_MOST_PASSES = 1_000
_MOST_CHARACTERS = 200


def restore_in_passes(
    groups: Many[Many[QualifiedName]], baseline: Baseline, *, truncated: frozenset[QualifiedName] = frozenset()
) -> Statement:
    """Write a block that puts *groups* of tables back one after the other, and what is refused once more after the others.

    A group is first tried as the one statement of :func:`restore`, then table by table, then row by row. It ends when
    all are as they should be; or when nothing more can be put back, by an error with the SQLSTATE ``REFUSED_ROW``.
    """
    # Referenced tables first, as applications insert.
    ordered = [list(reversed(group)) for group in reversed(groups)]
    passes = "\n".join(_group_in_passes(n, group, baseline, truncated) for n, group in enumerate(ordered, 1))
    return Statement(
        sql="DO "
        + quote_literal(f"""DECLARE
    is_done pg_catalog.bool[] := pg_catalog.array_fill(false, ARRAY[{len(ordered)}]);
    has_failed pg_catalog.bool; has_moved pg_catalog.bool; is_well pg_catalog.bool;
    rows pg_catalog.int8; place pg_catalog.record; row_text pg_catalog.text;
    state pg_catalog.text; reason pg_catalog.text; name pg_catalog.text; refusal pg_catalog.json;
BEGIN
    FOR pass IN 1..{_MOST_PASSES} LOOP
        has_failed := false; has_moved := false; refusal := NULL;
{passes}
        IF NOT has_failed THEN RETURN; END IF;
        EXIT WHEN NOT has_moved;
    END LOOP;
    RAISE EXCEPTION USING ERRCODE = {quote_literal(REFUSED_ROW)}, MESSAGE = coalesce(reason, ''),
        DETAIL = coalesce(refusal::pg_catalog.text, '{{}}');
END""")
    )


def _group_in_passes(
    number: int, names: Many[QualifiedName], baseline: Baseline, truncated: frozenset[QualifiedName]
) -> str:
    whole = restore(names, baseline, truncated=truncated).sql
    # Into a truncated table all rows are inserted, once.
    again = "" if truncated.isdisjoint(names) else f"IF NOT is_done[{number}] THEN "
    tables = "\n".join(
        _table_in_passes(name, baseline.tables.get(name), is_truncated=name in truncated) for name in names
    )
    return f"""{again}{_try(whole)}
        IF is_well THEN
            IF NOT is_done[{number}] THEN is_done[{number}] := true; has_moved := true; END IF;
        ELSE
            has_failed := true;
{tables}
        END IF; {"END IF;" if again else ""}"""


def _table_in_passes(name: QualifiedName, table: BaselineTable | None, *, is_truncated: bool) -> str:
    moved = "has_moved := has_moved OR (is_well AND rows OPERATOR(pg_catalog.>) 0);"
    if table is None:
        return f"{_try(f'DELETE FROM ONLY {quote(name)}')} {moved}"
    found = f"WITH x0 AS MATERIALIZED ({_differences(table)})"
    extra, missing = _found(0, "old", "new IS NULL"), _found(0, "new", "old IS NULL")
    delete, insert = f"DELETE FROM ONLY {quote(name)} WHERE ctid", f"{_insert(table)} WHERE c.ctid"
    update = _update(table, 0, "true") if table.key else None
    # Rows that exchange unique values cannot be updated one by one: all that changed are put in anew.
    changed = f"{found} {delete} {EQUALS} {_found(0, 'old', 'old IS NOT NULL')}"
    fill = f"{found} {insert} {EQUALS} {missing}"
    by_table = [
        *((f"{found} {delete} {EQUALS} {extra}",), *([(f"{found} {update}",)] if update else [])),
        (fill,),
        (changed, fill),
    ]
    if is_truncated:
        by_table = [(fill,)]
    statements = "\n".join(f"{_try(*each)} {moved}" for each in by_table)
    values = ", ".join(f"c.{quote(column.name)}" for column in table.columns)
    row = f"pg_catalog.left(ROW({values})::pg_catalog.text, {_MOST_CHARACTERS})"
    described = f"SELECT {row} FROM {quote(table.copy)} AS c WHERE c.ctid {EQUALS} $1"
    change = _update_one(table) or "SELECT WHERE false AND $1 IS NULL AND $2 IS NULL"
    return f"""{statements}
            FOR place IN EXECUTE {quote_literal(_differences(table))} LOOP
                IF place.new IS NULL THEN {_try(f"{delete} {EQUALS} $1", using="place.old")}
                ELSIF place.old IS NULL THEN {_try(f"{insert} {EQUALS} $1", using="place.new")}
                ELSE {_try(change, using="place.old, place.new")} END IF;
                {moved}
                IF NOT is_well AND refusal IS NULL THEN
                    row_text := NULL;
                    IF place.new IS NOT NULL THEN
                        EXECUTE {quote_literal(described)} INTO row_text USING place.new;
                    END IF;
                    refusal := pg_catalog.json_build_object('table', {quote_literal(str(name))}, 'row', row_text,
                        'constraint', name, 'reason', reason);
                END IF;
            END LOOP;"""


def _update_one(table: BaselineTable) -> str | None:
    columns = [column for column in table.columns if not (column.is_generated or column.is_fixed)]
    values = ", ".join(f"{quote(column.name)} = {_live(column, 'c')}" for column in columns)
    if not values:
        return None
    return (
        f"UPDATE ONLY {quote(table.name)} AS t SET {values} FROM {quote(table.copy)} AS c "
        f"WHERE t.ctid {EQUALS} $1 AND c.ctid {EQUALS} $2"
    )


def _try(*statements: str, using: str = "") -> str:
    """Write the execution of *statements* in a subtransaction. Whatever the server cannot go on after is raised at once."""
    given = f" USING {using}" if using else ""
    executed = "; ".join(f"EXECUTE {quote_literal(sql)}{given}" for sql in statements)
    return f"""BEGIN
            is_well := true; {executed};
            GET DIAGNOSTICS rows = ROW_COUNT;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, reason = MESSAGE_TEXT, name = CONSTRAINT_NAME;
            IF pg_catalog.regexp_like(state, '^(40|53|54|55|57|58|XX)') THEN RAISE; END IF;
            IF pg_catalog.strpos(reason, {quote_literal(DAMAGE)}) OPERATOR(pg_catalog.>) 0 THEN RAISE; END IF;
            is_well := false;
        END;"""
