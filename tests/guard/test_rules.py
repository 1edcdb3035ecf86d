"""Which rule decides, for databases that no test runner made."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.db import connections

from testdb_app import guard
from testdb_app.exceptions import ReadOnlyError, UnsafeDatabaseError
from testdb_app.resetter import Resetter
from tests.guard.conftest import content
from tests.scratch import ScratchDatabase

Make = Callable[..., ScratchDatabase]


def refusal(resetter: Resetter) -> UnsafeDatabaseError:
    with pytest.raises(UnsafeDatabaseError) as caught:
        resetter.reset()
    return caught.value


def test_an_unknown_database_is_refused_and_keeps_its_rows(filled: ScratchDatabase) -> None:
    before = content(filled)
    error = refusal(Resetter("scratch"))
    assert content(filled) == before
    assert (error.rule, error.database, error.alias) == ("unknown", filled.name, "scratch")


def test_the_refusal_says_which_database_and_what_to_do(filled: ScratchDatabase) -> None:
    identity = filled.resetter().identify()
    assert refusal(Resetter("scratch")).message == (
        f'Refusing to reset database "{filled.name}" (alias "scratch", {identity.server}): it is not known to be a test '
        f'database. If it may be emptied, name it: resetdb --database scratch --allow-database "{filled.name}", or add '
        f'this line to the settings: TESTDB = {{"ALLOWED_DATABASES": ["{filled.name}"]}}, or mark it once with resetdb '
        "--database scratch --mark-test."
    )


def test_the_line_for_the_settings_keeps_what_they_have(filled: ScratchDatabase, settings: Any) -> None:
    settings.TESTDB = {"ALLOWED_DATABASES": ["other"], "LOCK_TIMEOUT": 3}
    line = f'TESTDB["ALLOWED_DATABASES"] = ["other", "{filled.name}"]'
    assert f"add this line to the settings: {line}, or" in refusal(Resetter("scratch")).message
    exec(line, {"TESTDB": settings.TESTDB})
    assert Resetter("scratch").check_may_reset() == "allowed"


def test_a_typo_in_an_allowed_name_is_echoed_with_the_name_that_is_near(filled: ScratchDatabase, settings: Any) -> None:
    typo = filled.name.replace("scratch", "scartch")
    expected = f'"{typo}" is allowed, but that is not its name (did you mean "{filled.name}"?). If'
    assert expected in refusal(Resetter("scratch", allow_database=["postgres", typo])).message
    settings.TESTDB = {"ALLOWED_DATABASES": [typo]}
    assert expected in refusal(Resetter("scratch")).message
    settings.TESTDB = {"ALLOWED_DATABASES": ["postgres"]}
    assert "did you mean" not in refusal(Resetter("scratch")).message


@pytest.mark.parametrize(
    "change", [str.upper, lambda name: name[:-1], lambda name: f"{name}x", lambda _: "*", lambda _: "scratch"]
)
def test_only_the_exact_name_of_the_database_allows_it(filled: ScratchDatabase, change: Callable[[str], str]) -> None:
    before = content(filled)
    assert refusal(Resetter("scratch", allow_database=change(filled.name))).rule == "unknown"
    assert content(filled) == before


def test_a_caller_who_names_the_database_may_reset_it(filled: ScratchDatabase) -> None:
    assert Resetter("scratch", allow_database=filled.name).reset().permitted_by == "allowed"
    assert filled.count("item") == 0


def test_several_names_may_be_given(filled: ScratchDatabase) -> None:
    assert Resetter("scratch", allow_database=["other", filled.name]).check_may_reset() == "allowed"


def test_the_setting_allows_by_exact_name(filled: ScratchDatabase, settings: Any) -> None:
    settings.TESTDB = {"ALLOWED_DATABASES": ["other", f"{filled.name}x"]}
    assert refusal(Resetter("scratch")).rule == "unknown"
    settings.TESTDB = {"ALLOWED_DATABASES": ["other", filled.name]}
    assert Resetter("scratch").reset().permitted_by == "allowed"
    assert filled.count("item") == 0


def test_the_name_of_the_alias_allows_nothing(make_filled: Make) -> None:
    database = make_filled("test_shop")
    assert refusal(Resetter("test_shop", allow_database="test_shop")).rule == "unknown"
    assert database.count("item") == 3


def test_a_name_that_begins_with_test_allows_nothing(filled: ScratchDatabase) -> None:
    # The naive rule. The alias was registered after the start, under this very name.
    filled.connection.close()
    with connections["default"].cursor() as cursor:
        cursor.execute(f'ALTER DATABASE "{filled.name}" RENAME TO "test_{filled.name}"')
    filled.name = f"test_{filled.name}"
    filled.connection.settings_dict["NAME"] = filled.name
    assert refusal(Resetter("scratch")).rule == "unknown"
    assert filled.count("item") == 3


def test_environment_variables_change_nothing(filled: ScratchDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("test", "1", "production"):
        for name in ("ENV", "ENVIRONMENT", "DJANGO_ENV", "RAILS_ENV", "CI", "TESTING", "TEST", "DEBUG", "PGDATABASE"):
            monkeypatch.setenv(name, value)
        assert refusal(Resetter("scratch")).rule == "unknown"
        assert Resetter("scratch", allow_database=filled.name).check_may_reset() == "allowed"


def test_the_guard_has_no_means_to_read_the_environment_or_a_host_name() -> None:
    tree = ast.parse(Path(guard.__file__).read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported.isdisjoint({"socket", "platform", "getpass", "sys"})
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert used.isdisjoint({"environ", "environb", "getenv", "uname", "getlogin"})
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert texts.isdisjoint({"HOST", "PORT", "localhost", "127.0.0.1"})


def test_debug_changes_nothing(filled: ScratchDatabase, settings: Any) -> None:
    settings.DEBUG = True
    assert refusal(Resetter("scratch")).rule == "unknown"


def test_a_session_that_is_read_only_by_its_options_is_refused(make_filled: Make) -> None:
    database = make_filled()
    database.register("reader", OPTIONS={"options": "-c default_transaction_read_only=on"})
    before = content(database)
    with pytest.raises(ReadOnlyError, match="read-only by default"):
        Resetter("reader", allow_database=database.name).reset()
    assert content(database) == before


@pytest.mark.parametrize("whose", ["DATABASE {name}", "ROLE CURRENT_USER IN DATABASE {name}"])
def test_a_database_or_role_that_is_read_only_by_default_is_refused(filled: ScratchDatabase, whose: str) -> None:
    before = content(filled)
    filled.execute(f"ALTER {whose.format(name=filled.name)} SET default_transaction_read_only = on")
    filled.connection.close()
    with pytest.raises(ReadOnlyError, match=f'"{filled.name}".*connect with a role or options that allow writes'):
        filled.reset()
    assert content(filled) == before


def test_two_aliases_of_one_database_are_asked_alike(filled: ScratchDatabase) -> None:
    filled.register("second")
    assert refusal(Resetter("second")).alias == "second"
    assert Resetter("second", allow_database=filled.name).reset().rows == 5
    assert Resetter("scratch", allow_database=filled.name).reset().rows == 0


def test_a_database_that_the_process_declared_its_own_is_permitted_under_that_alias_only(
    filled: ScratchDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "_trusted_names", {})
    filled.register("second")
    guard.trust_test_database("scratch", filled.name)
    assert Resetter("scratch").check_may_reset() == "allowed"
    assert refusal(Resetter("second")).rule == "unknown"


def test_a_mirror_is_reset_as_what_it_mirrors_and_not_by_its_own_name(make_scratch: Make) -> None:
    primary = make_scratch("primary")
    primary.execute("CREATE TABLE t (id serial PRIMARY KEY); INSERT INTO t DEFAULT VALUES")
    primary.register("replica", TEST={"MIRROR": "primary"})
    with pytest.raises(UnsafeDatabaseError):
        resetter = primary.resetter(allow_database=())
        resetter.using = "replica"
        resetter.reset()
    assert primary.count("t") == 1
