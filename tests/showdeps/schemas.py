"""Small schemas, made by hand, for pictures to draw."""

from __future__ import annotations

from typing import Any

from testdb_app.schema import ForeignKey, OnDelete, QualifiedName, Schema, SequenceInfo, SequenceUse, Table, TableKind

HOSTILE = (
    'double"quote',
    "single'quote",
    "back\\slash",
    'ends with backslash\\"\\',
    "percent%s%%",
    "new\nline",
    "new\\nline",
    "tab\tand\rreturn",
    "<script>alert(1)</script>",
    "&amp; &#35; #35; #quot;",
    "\\N \\G \\l",
    "`back` *star* __under__ ~~strike~~",
    "1. list",
    "end",
    "a|b]c}d)e--> t0",
    "%%{init: {}}%%",
    "; DROP TABLE x; --",
    "名前テーブル",
    "Ünïcödé ☃ 🐘",
    "right\u202eleft",
    "zero\u200bwidth",
    "no\u00a0break",
    " ",
    "",
    "Select",
    "dotted.name",
    'x"."y',
    "A" * 63,
    "A" * 62 + "B",
)


def named(name: str, schema: str = "public") -> QualifiedName:
    return QualifiedName(schema, name)


def table(name: str, **attributes: Any) -> Table:
    inherits = tuple(map(named, attributes.pop("inherits", ())))
    kind = TableKind(attributes.pop("kind", "ordinary"))
    return Table(name=named(name), inherits=inherits, kind=kind, **attributes)


def key(source: str, column: str, target: str, **attributes: Any) -> ForeignKey:
    return ForeignKey(
        name=attributes.pop("name", f"{source}_{column}_fk"),
        table=named(source),
        columns=(column,),
        referenced=named(target),
        referenced_columns=("id",),
        **attributes,
    )


def schema(tables: list[Table], keys: list[ForeignKey] | None = None, **attributes: Any) -> Schema:
    return Schema(
        vendor="postgresql",
        tables=tuple(sorted(tables, key=lambda item: item.name)),
        foreign_keys=tuple(sorted(keys or [], key=lambda item: (item.table, item.columns, item.referenced, item.name))),
        search_path=("public",),
        **attributes,
    )


def library() -> Schema:
    """Two levels, a deferrable cycle, a self-reference that is not deferrable, a lonely table, a sequence."""
    deferred = {"deferrable": True, "initially_deferred": True}
    return schema(
        [table(name) for name in ("branch", "staff", "copy", "genre", "legacy")],
        [
            key("branch", "manager_id", "staff", on_delete=OnDelete.SET_NULL, **deferred),
            key("staff", "branch_id", "branch", on_delete=OnDelete.CASCADE, deferrable=True),
            key("copy", "branch_id", "branch", **deferred),
            key("copy", "genre_id", "genre", on_delete=OnDelete.RESTRICT),
            key("genre", "broader_id", "genre"),
        ],
        sequences=(
            SequenceInfo(
                name=named("copy_id_seq"), uses=(SequenceUse(table=named("copy"), column="id", how="identity"),)
            ),
            SequenceInfo(name=named("spare"), start=1000, minimum=100, increment=-1, cycle=True),
        ),
    )


def partitioned() -> Schema:
    """Events in three partitions, one of them partitioned again; they refer to users, and reports to them.

    ``inherited`` keys are the copies that PostgreSQL keeps; some partitions have keys of their own.
    """
    root = {"kind": TableKind.PARTITIONED}
    part = {"is_partition": True}
    leaves = ["event_1", "event_2", "event_3", "event_3a", "event_3b"]
    return schema(
        [
            table("event", **root),
            table("event_1", inherits=["event"], **part),
            table("event_2", inherits=["event"], **part),
            table("event_3", inherits=["event"], **root, **part),
            table("event_3a", inherits=["event_3"], **part),
            table("event_3b", inherits=["event_3"], **part),
            table("report"),
            table("users"),
            table("venue"),
            table("vip", inherits=["users"]),
        ],
        [
            key("event", "user_id", "users"),
            *(key(leaf, "user_id", "users", inherited=True) for leaf in leaves),
            key("event_1", "venue_id", "venue"),
            key("event_2", "venue_id", "venue"),
            key("event_3a", "user_id", "users", on_delete=OnDelete.CASCADE, name="own"),
            key("report", "event_id", "event"),
            *(key("report", "event_id", leaf, inherited=True, name=f"report_{leaf}") for leaf in leaves),
        ],
    )


def hostile() -> Schema:
    """Each name as a table, a schema, a column, a key; each table refers to the next in a ring."""
    names = [QualifiedName(name, name) for name in HOSTILE]
    keys = [
        ForeignKey(
            name=one.name, table=one, columns=(one.name, "id"), referenced=other, referenced_columns=("id", other.name)
        )
        for one, other in zip(names, names[1:] + names[:1], strict=True)
    ]
    return Schema(
        vendor="postgresql",
        tables=tuple(Table(name=name, extension=name.name) for name in sorted(names)),
        foreign_keys=tuple(sorted(keys, key=lambda item: (item.table, item.columns, item.referenced, item.name))),
    )
