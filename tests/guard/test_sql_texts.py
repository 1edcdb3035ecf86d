"""No text of SQL leaves it to the search path what it means: read from the source, whatever the other tests run."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from testdb_app.backends import postgresql
from testdb_app.backends.postgresql.sql import qualify

MODULES = sorted(Path(postgresql.__file__).parent.glob("*.py"))

_IS_SQL = re.compile(
    r"\b(SELECT|INSERT|UPDATE|DELETE|FROM|WHERE|CASE|EXISTS|SET|CREATE|ALTER|DROP|LOCK|TRUNCATE|COMMENT|JOIN|AND)\b"
    r"|pg_catalog\.|OPERATOR\("
)

# Texts whose operators and types may stand as they are, by module. read_rows() and read_safely() run them after SET LOCAL
# search_path, when nothing of the user's is on it; or they are parts of a text that is given to qualify().
AFTER_THE_SAFE_PATH = {
    "baseline": {"_COUNTERS", "_EXISTS", "_compare_texts", "compare_earlier", "read_baseline"},
    "baseline_shape": {"KINDS", "MIGRATIONS", "TABLE_SHAPES", "_GENERATED_OF_TABLE", "_KEPT_AS", "_TYPES_OF_TABLE"},
    "catalog": {
        "COPY_OIDS",
        "EVENT_TRIGGERS",
        "MATERIALIZED_VIEWS",
        "OBJECTS",
        "PUBLISHED",
        "RULES",
        "SEQUENCES",
        "SEQUENCES_TO_READ",
        "SEQUENCE_STATES_18",
        "SIZES_OF",
        "STORED_BY",
        "STORES",
        "TABLES",
        "TOKEN",
        "TRIGGERS",
        "USER_SCHEMAS",
        "_FOREIGN_KEYS",
        "_TABLE_OIDS",
        "_USER_OR_TEMPORARY",
    },
    "constraints": {"_DEFERRABLE_KEYS"},
    "counters": {"CALLED", "CALLED_18", "DATABASE", "RELATIONS"},
    "errors": {"BLOCKERS"},
    "introspection": {"ESTIMATES", "READABLE", "UNIQUE_KEYS", "_read_each"},
    "preconditions": {"OWNERS"},
    "queries": {"_HOLDERS"},
    "snapshots": {"TABLES"},
}
PARTS_OF_WHAT_IS_QUALIFIED = {
    "counters": {
        "_calls",
        "_CATALOGS",
        "_OTHERS",
        "_PREPARED",
        "_conditions",
        "COUNTED",
        "_each",
        "_epoch",
        "_counted",
        "_others",
        "_set",
        "reading_within",
    },
    "preconditions": {"_ALL", "_FAULTS", "_ME", "_TRUSTED"},
    "session_reset": {"_CALLED", "_OWN"},
}
# An "=" that is no operator: of advice to people, of SET, and of PL/pgSQL.
NO_OPERATORS = {
    "backend": {"_set"},
    "errors": {"_translate"},
    "operations": {"_try", "restore_in_passes"},
}
ALLOWED = (AFTER_THE_SAFE_PATH, PARTS_OF_WHAT_IS_QUALIFIED, NO_OPERATORS)
# Words that no search path decides: keywords written like a function, the columns of an alias, PL/pgSQL and SET.
NO_FUNCTIONS = {
    "coalesce": "a keyword",
    "u": "the alias of a function and its columns",
    "pg_terminate_backend": "advice in an error",
    "pg_default": "a tablespace: it has no schema",
    "pg_temp": "the value of search_path",
    "pg_catalog": "the value of search_path",
}
# The grammar takes these types from the catalog.
TYPES_OF_THE_GRAMMAR = {"bigint", "integer", "smallint", "boolean", "real", "numeric"}


def texts(path: Path) -> Iterator[tuple[str, str]]:
    """Yield each text of a module that looks like SQL, with the function or constant that it is in; as qualify() leaves it."""
    for owner, text, is_qualified in _strings(ast.parse(path.read_text()), "", is_qualified=False):
        if _IS_SQL.search(text):
            yield owner, qualify(text) if is_qualified else text


def _strings(node: ast.AST, owner: str, *, is_qualified: bool) -> Iterator[tuple[str, str, bool]]:
    match node:
        case ast.Expr(value=ast.Constant()) | ast.Raise():
            return  # a docstring; a message
        case ast.Call(func=ast.Name(id=name)) if name.endswith("Error"):
            return  # a message
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            owner = owner or name
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
            owner = owner or name
        case ast.Call(func=ast.Name(id="qualify")):
            is_qualified = True
        case ast.JoinedStr(values=values):
            yield (
                owner,
                "".join(str(each.value) if isinstance(each, ast.Constant) else "§" for each in values),
                is_qualified,
            )
            for each in values:
                if isinstance(each, ast.FormattedValue):
                    yield from _strings(each.value, owner, is_qualified=False)
            return
        case ast.Constant(value=str(text)):
            yield owner, text, is_qualified
            return
    for child in ast.iter_child_nodes(node):
        yield from _strings(child, owner, is_qualified=is_qualified)


def _without_literals(text: str) -> str:
    text = re.sub(r"'(?:[^']|'')*'|\"[^\"]*\"", "''", text)
    return re.sub(r"OPERATOR\([^)]*\)", "", text)


def names_left_open(text: str) -> set[str]:
    """Return the relations and functions that the search path would look up."""
    # What begins with a catalog is the source of a digest: _digest() puts pg_catalog before it.
    plain = re.sub(r"^pg_[a-z]+(?= WHERE)", "", _without_literals(text))
    relations = re.findall(r"(?<![\w.])(pg_[a-z_]+)\b(?!\.)", plain)
    functions = re.findall(r"(?<![\w.§])([a-z][a-z_0-9]*)\(", plain)
    return {*relations, *functions} - NO_FUNCTIONS.keys()


def operators_left_open(text: str) -> set[str]:
    """Return the operators and types, and the keywords that stand for an operator, which the search path would look up."""
    plain = re.sub(r"\bSET( LOCAL| SESSION)?( [a-z_§]+)? = |\* FROM|\$f\$", "", _without_literals(text))
    types = set(re.findall(r"::([a-z0-9_]+)\b(?!\.)", plain)) - TYPES_OF_THE_GRAMMAR
    operators = re.findall(r"(?<=\s)([=<>!~+*/|%@#&^-]+)(?=\s)", plain)
    keywords = re.findall(r"\b(IN \(|BETWEEN|DISTINCT FROM|LIKE|NULLIF|USING \(|CASE [a-z§])", plain)
    return {*types, *operators, *keywords}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_relations_and_functions_are_named_with_their_schema(path: Path) -> None:
    found = {(owner, name) for owner, text in texts(path) for name in names_left_open(text)}
    assert found == set()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_operators_and_types_are_those_of_the_catalog(path: Path) -> None:
    allowed = {name for some in ALLOWED for name in some.get(path.stem, ())}
    found = {(owner, each) for owner, text in texts(path) for each in operators_left_open(text)}
    assert {(owner, each) for owner, each in found if owner not in allowed} == set()
    assert allowed - {owner for owner, _ in found} == set(), "allowed, and needs it no more"


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1 WHERE a = b",
        "SELECT a::text FROM pg_catalog.pg_class",
        "SELECT 1 WHERE a IN (1, 2)",
        "CASE § WHEN 1 THEN 2 END",
        "SELECT pg_catalog.min(x) FROM a JOIN b USING (x)",
    ],
)
def test_the_scan_finds_an_operator(text: str) -> None:
    assert operators_left_open(text)


@pytest.mark.parametrize("text", ["SELECT now()", "SELECT 1 FROM pg_class c", "SELECT lower('a')"])
def test_the_scan_finds_a_name(text: str) -> None:
    assert names_left_open(text)
