"""Which rule decides, for databases that no test runner made."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.db import connections
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

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
        f'database. If it may be emptied, name it: resetdb --database scratch --allow-database "{filled.name}", or add the '
        'name to TESTDB["ALLOWED_DATABASES"], or mark it once with resetdb --mark-test.'
    )


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
    assert imported.isdisjoint({"os", "socket", "platform", "getpass", "sys"})
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
    with pytest.raises(ReadOnlyError, match=f'"{filled.name}".*Connect with a role or options that may write'):
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
    assert Resetter("scratch").check_may_reset() == "test-runner"
    assert refusal(Resetter("second")).rule == "unknown"


SUFFIXES = st.text(alphabet="_0123456789abgw.- \n", max_size=6) | st.text(max_size=3)


@hypothesis_settings(deadline=None)  # the machine may be busy
@given(suffix=SUFFIXES)
@example("_1\n")
@example("_1_2")
@example("_")
@example("1")
@example("_\N{ARABIC-INDIC DIGIT ONE}")
def test_only_a_number_may_follow_the_test_name(suffix: str) -> None:
    name = f"test_shop{suffix}"
    digits = suffix.removeprefix("_")
    is_clone = suffix.startswith("_") and digits.isascii() and digits.isdigit()
    assert ask_as_a_runner(configured="shop", current=name, test={}) is (suffix == "" or is_clone)


@pytest.mark.parametrize(
    ("test_name", "current", "permitted"),
    [
        ("folder/test_db.sqlite3", "folder/test_db_2.sqlite3", True),
        ("folder/test_db.sqlite3", "folder/test_db.sqlite3_2", True),
        ("folder/test_db.sqlite3", "folder/test_db_x.sqlite3", False),
        ("folder.d/test_db", "folder.d/test_db_12", True),
        ("folder.d/test_db", "folder_1.d/test_db", False),
        ("check_shop", "check_shop", True),
        ("check_shop", "test_shop", False),
        ("check_shop", "check_shop_7", True),
    ],
)
def test_the_name_in_the_settings_and_its_clones_count(test_name: str, current: str, permitted: bool) -> None:
    assert ask_as_a_runner(configured="shop", current=current, test={"NAME": test_name}) is permitted


@pytest.mark.parametrize("test_name", ["shop", "accounts"])
def test_a_test_name_that_is_a_real_one_is_no_test_name(test_name: str) -> None:
    assert ask_as_a_runner(configured="shop", current=test_name, test={"NAME": test_name}) is False


def test_a_name_that_the_settings_do_not_have_is_no_test_name() -> None:
    assert ask_as_a_runner(configured="shop", current="shop", test={}, live="test_shop") is False


def test_an_alias_that_came_after_the_start_has_no_test_name() -> None:
    assert ask_as_a_runner(configured=None, current="test_None", test={}) is False
    assert ask_as_a_runner(configured=None, current="checks", test={"NAME": "checks"}) is False


def ask_as_a_runner(*, configured: str | None, current: str, test: dict[str, Any], live: str | None = None) -> bool:
    """Ask about a live name, after a runner gave an alias *current* instead of *configured*. Connects to nothing."""
    remembered = dict(guard._configured_names)
    connections.settings["runner"] = {**connections.settings["default"], "NAME": current, "TEST": test}
    try:
        names = {"accounts": "accounts"} if configured is None else {"accounts": "accounts", "runner": configured}
        guard.remember_configured_names({alias: {"NAME": name} for alias, name in names.items()})
        return guard.is_test_runner_name(connections["runner"], current if live is None else live)
    finally:
        guard._configured_names.clear()
        guard._configured_names.update(remembered)
        del connections["runner"]
        del connections.settings["runner"]
