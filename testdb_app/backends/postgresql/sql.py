"""Quote identifiers, texts and durations for PostgreSQL. All quoting is in this module."""

from __future__ import annotations

import re
from functools import lru_cache

from testdb_app.schema import QualifiedName


@lru_cache(maxsize=4096)
def quote(name: QualifiedName | str) -> str:
    """Quote an identifier, or a qualified one, for SQL."""
    if isinstance(name, QualifiedName):
        return f"{quote(name.schema)}.{quote(name.name)}"
    return '"' + name.replace('"', '""') + '"'


def quote_literal(text: str) -> str:
    """Quote a text for SQL, whatever ``standard_conforming_strings`` is."""
    escaped = text.replace("\\", "\\\\").replace("'", "''")
    return f"E'{escaped}'" if "\\" in text else f"'{escaped}'"


EQUALS = "OPERATOR(pg_catalog.=)"
"""The catalog's operator ``=``, whatever the ``search_path`` has before it."""


def qualify(sql: str) -> str:
    """Qualify the operators and types of a query with the catalog's schema, for queries under the user's ``search_path``.

    Only for queries of this package without any name of the user's. All such operators bind alike, from left to right:
    use parentheses. Do not use IN, BETWEEN, IS DISTINCT FROM or USING: they take their operators from the
    ``search_path``.
    """
    operators = re.sub(r"(?<=[ \n])([=<>!~+*/-]+)(?= )", r"OPERATOR(pg_catalog.\1)", sql)
    return re.sub(r"::(text|oid|regclass|name|xid8|float8)\b", r"::pg_catalog.\1", operators)


def equals(left: str, right: str, operator: str = EQUALS) -> str:
    """Write a comparison of two expressions by *operator*, which is qualified."""
    return f"{left} {operator} {right}"


def milliseconds(seconds: float) -> int:
    """Return *seconds* as milliseconds for a timeout setting. At least 1, because 0 would mean no timeout."""
    return max(1, round(seconds * 1000))
