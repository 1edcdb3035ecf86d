"""The lists of the code are those of the pages: commands, options, settings, checks, rules, errors, fixtures, links."""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import json
import re
from dataclasses import fields
from io import StringIO
from runpy import run_path
from typing import Any

import pytest
from _pytest.fixtures import FixtureFunctionDefinition
from django.core.management import call_command, get_commands, load_command_class
from django.test import override_settings

from testdb_app import baseline, checks, data, exceptions, guard, pytest_plugin, runner, testcases
from testdb_app.backends.base import Action
from testdb_app.conf import TARGETS, Settings, get_settings
from testdb_app.report import ResetReport, ResetTable
from testdb_app.schema import QualifiedName
from testdb_app.showdeps import FORMATS
from tests.documentation.pages import DOCS, ROOT, blocks, every_block

COMMANDS = {name: str(app) for name, app in get_commands().items() if str(app).startswith("testdb_app")}
# Django's own, which its own documentation tells.
OF_DJANGO = {"-h", "--help", "--version", "-v", "--verbosity", "--settings", "--pythonpath", "--traceback"}
OF_DJANGO |= {"--no-color", "--force-color", "--skip-checks"}
REFERENCE = DOCS / "reference"


def read(name: str) -> str:
    return (REFERENCE / name).read_text("utf-8")


def page_of(command: str) -> str:
    """Return the page of a command: its own, or that of all commands."""
    own = REFERENCE / f"{command}.md"
    return (own if own.exists() else REFERENCE / "commands.md").read_text("utf-8")


def test_the_page_of_the_commands_leads_to_each() -> None:
    assert {"resetdb", "showdeps", "loaddemo"} <= COMMANDS.keys()
    assert set(re.findall(r"^\| \[`(\w+)`\]", read("commands.md"), re.MULTILINE)) == COMMANDS.keys()
    assert [name for name in COMMANDS if not re.search(rf"^##? `{name}`", page_of(name), re.MULTILINE)] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_the_page_of_a_command_tells_every_option(command: str) -> None:
    parser = load_command_class(COMMANDS[command], command).create_parser("manage.py", command)
    options = {option for action in parser._actions for option in action.option_strings}
    assert {option for option in options - OF_DJANGO if option not in page_of(command)} == set()


def test_every_link_of_the_readme_leads_somewhere() -> None:
    """Those of docs/ are checked by Sphinx, whose warnings are errors."""
    for target, anchor in re.findall(r"\]\(([^)#]+)#?([^)]*)\)", (ROOT / "README.md").read_text()):
        assert target.startswith("https://") or (ROOT / target).exists(), target
        headings = re.findall(r"^#+ (.+)$", (ROOT / target).read_text(), re.MULTILINE) if anchor else []
        assert not anchor or anchor in {heading.lower().replace(" ", "-") for heading in headings}, anchor


def test_the_figures_of_the_readme_are_those_that_were_measured() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    costs = dict(re.findall(r"^\| (`\w+`.*), empty \| ([\d.]+) \|$", read("test-cases.md"), re.MULTILINE))
    reset = costs["`ResetTransactionTestCase`"]
    for name in ("`TransactionTestCase`", "`TransactionTestCase` with `serialized_rollback`"):
        assert f"| {costs[name]} ms | {reset} ms |" in readme
    assert f"never commits, costs {costs['`TestCase`']} ms" in readme
    gains = {
        label: re.findall(r"\(([\d.,]+)\)", cells)
        for label, cells in re.findall(
            r"^\| (\w[^|]+) \|(.*)$", (DOCS / "how-to/templates.md").read_text("utf-8"), re.MULTILINE
        )
    }
    for project in (0, 2):  # pretix and nautobot
        before, after = (gains[row][project] for row in ("without templates", "each later run, and each worker"))
        assert f"| {before} s | {after} s |" in readme


def test_every_page_is_of_one_of_the_four_kinds() -> None:
    folders = {path.name for path in DOCS.iterdir() if path.is_dir() and any(path.glob("*.md"))}
    assert folders <= {"tutorial", "how-to", "reference", "explanation"}
    assert {path.name for path in DOCS.glob("*.md")} == {"index.md", "contributing.md"}


def test_the_page_on_safety_tells_every_rule() -> None:
    rules = set(re.findall(r"^``([a-z-]+)``", guard.__doc__ or "", re.MULTILINE))
    assert len(rules) >= 9
    assert {rule for rule in rules if f"| `{rule}` |" not in read("safety.md")} == set()


def test_the_page_of_the_settings_tells_every_key_with_its_default() -> None:
    (block,) = blocks(REFERENCE / "settings.md", "python")
    namespace: dict[str, Any] = {}
    exec(block.text, namespace)
    assert list(namespace["TESTDB"]) == [field.name.upper() for field in fields(Settings)]
    with override_settings(TESTDB=namespace["TESTDB"]):
        assert get_settings() == Settings()


def test_the_page_of_the_settings_tells_every_check() -> None:
    ids = set(re.findall(r"testdb_app\.[EWI]\d{3}", inspect.getsource(checks)))
    assert len(ids) >= 5
    assert set(re.findall(r"^\| `(testdb_app\.[EWI]\d{3})` \|", read("settings.md"), re.MULTILINE)) == ids


def test_the_pages_of_the_errors_have_a_heading_for_each() -> None:
    classes = [
        name
        for name, value in vars(exceptions).items()
        if inspect.isclass(value) and issubclass(value, exceptions.TestDBError)
    ]
    headings = re.findall(r"^#+ `(\w+)`$", read("errors.md") + read("session-errors.md"), re.MULTILINE)
    assert headings == classes
    (tree,) = [block.text for block in blocks(REFERENCE / "errors.md", "text") if "├" in block.text]
    drawn = re.findall(r"^    ([│├└─ ]*\w+Error)", exceptions.__doc__ or "", re.MULTILINE)
    assert tree.splitlines() == drawn


def test_the_reference_has_every_module_that_the_pages_import_from() -> None:
    pages = sorted(REFERENCE.glob("api-*.md"))
    documented = {name for page in pages for name in re.findall(r"automodule:: (\S+)", page.read_text("utf-8"))}
    imported = {
        name
        for block in every_block("python")
        for name in re.findall(r"^\s*from (testdb_app\.\S+) import", block.text, re.MULTILINE)
    }
    assert {name for name in imported if not name.startswith("testdb_app.demo")} - documented == set()


def test_the_page_of_showdeps_tells_every_format() -> None:
    assert {name for name in FORMATS if f"| `{name}` |" not in read("showdeps.md")} == set()


def test_the_overview_of_the_reference_names_what_its_pages_have() -> None:
    text = "\n".join(page.read_text("utf-8") for page in REFERENCE.glob("api-*.md"))
    told = set(re.findall(r"`(\w+)`", read("api.md")))
    assert len(told) > 30
    whole = [
        importlib.import_module(f"testdb_app.{name}")
        for name in ("baseline", "backends.base", "schema", "graph", "exceptions")
    ]
    assert {name for name in told if name not in text and not any(hasattr(module, name) for module in whole)} == set()


def test_the_page_of_the_commands_tells_every_field_of_the_report() -> None:
    table = ResetTable(name=QualifiedName("public", "book"), action=Action.RESTORE, rows=0)
    given = {field.name: () for field in fields(ResetReport)} | {"tables": (table,)}
    report = ResetReport(**given).as_dict()
    told = {*report, *report["tables"][0], *(action.value for action in Action if action is not Action.RESTART)}
    assert {word for word in told if f"`{word}`" not in read("commands.md")} == set()


def test_the_page_of_showdeps_tells_every_key_of_its_json(db: None) -> None:
    output = StringIO()
    call_command("showdeps", format="json", stdout=output)
    document = json.loads(output.getvalue())
    parts = [
        document,
        document["database"],
        *(each[0] for each in document.values() if isinstance(each, list) and each),
    ]
    keys = {key for part in parts if isinstance(part, dict) for key in part}
    assert len(keys) > 25
    assert {key for key in keys if f"`{key}`" not in read("showdeps.md")} == set()


def test_the_page_on_baselines_tells_every_function_parameter_and_target() -> None:
    text = read("baseline.md")
    functions = [
        value
        for name, value in inspect.getmembers(baseline, inspect.isfunction)
        if value.__module__ == baseline.__name__ and not name.startswith("_")
    ]
    for function in functions:
        (call,) = re.findall(rf"`{function.__name__}\((using=[^`]*)\)`", text)
        told = ast.parse(f"def f({call}): ...").body[0].args
        parameters = inspect.signature(function).parameters
        assert [argument.arg for argument in [*told.args, *told.kwonlyargs]] == list(parameters)
        defaults = [ast.literal_eval(default) for default in [*told.defaults, *told.kw_defaults]]
        assert defaults == [parameter.default for parameter in parameters.values()]
    assert {function.__name__ for function in functions} == {"capture_baseline", "drop_baseline"}
    assert {target for target in TARGETS if f'`"{target}"`' not in text} == set()


def test_the_page_on_data_tells_every_name_and_the_parameters_of_every_function() -> None:
    text = read("data.md")
    functions = [getattr(data, name) for name in data.__all__ if inspect.isfunction(getattr(data, name))]
    assert len(functions) >= 10
    for function in functions:
        (call,) = re.findall(rf"`{function.__name__}\(([^`]*, \*?[^`]*|[^`]*using=[^`]*|before[^`]*)\)`", text)
        told = ast.parse(f"def f({call}): ...").body[0].args
        positional = [*told.posonlyargs, *told.args, *filter(None, [told.vararg])]
        arguments = [*positional, *told.kwonlyargs, *filter(None, [told.kwarg])]
        parameters = inspect.signature(function).parameters
        assert [argument.arg for argument in arguments] == list(parameters)
        defaults = [ast.literal_eval(default) for default in [*told.defaults, *told.kw_defaults] if default is not None]
        given = [each.default for each in parameters.values() if each.default is not inspect.Parameter.empty]
        assert defaults == given
    of_the_reference = {"RowDifference", "SequenceDifference", "SeedRegistry"}  # only its docstrings name these
    assert {name for name in data.__all__ if name not in text} <= of_the_reference


def test_the_page_on_data_tells_every_method_of_a_ledger() -> None:
    methods = {name for name, value in vars(data.DataLedger).items() if inspect.isfunction(value) and name[0] != "_"}
    assert len(methods) >= 9
    assert {name for name in methods if not re.search(rf"`(ledger)?\.{name}\(", read("data.md"))} == set()


def test_the_page_on_test_cases_tells_every_class_option_and_target() -> None:
    text = read("test-cases.md")
    parser = argparse.ArgumentParser()
    runner.ResetDiscoverRunner.add_arguments(parser)
    own = {option for action in parser._actions for option in action.option_strings if "reset" in option}
    assert own == {"--reset-transaction-tests"}
    classes = {
        name
        for module in (runner, testcases)
        for name, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__ and name.startswith("Reset")
    }
    assert len(classes) >= 5
    assert {word for word in own | classes if word not in text} == set()
    assert {target for target in TARGETS if f'`"{target}"`' not in text} == set()


def fixtures_of_the_plugin(pytestconfig: pytest.Config) -> set[str]:
    plugins = [
        plugin
        for plugin in pytestconfig.pluginmanager.get_plugins()
        if getattr(plugin, "__name__", "").startswith("testdb_app.")
    ]
    assert pytest_plugin in plugins
    return {
        value._fixture_function_marker.name or name
        for plugin in plugins
        for name, value in vars(plugin).items()
        if isinstance(value, FixtureFunctionDefinition)
    }


def test_the_tutorial_ends_at_a_suite_that_uses_each_fixture(pytestconfig: pytest.Config) -> None:
    text = (DOCS / "tutorial/first-hour.md").read_text("utf-8")
    used = set(re.findall(r"\w+", " ".join(re.findall(r"^[+ ]*def \w+\((.*)\):", text, re.MULTILINE))))
    assert fixtures_of_the_plugin(pytestconfig) - used == {"reset_db"}, (
        "which the line in pytest.ini does for all tests"
    )
    assert "`reset_db`" in text


def test_the_page_on_pytest_tells_every_fixture_option_ini_key_and_mark(pytestconfig: pytest.Config) -> None:
    text = read("pytest.md")
    fixtures = fixtures_of_the_plugin(pytestconfig)
    options = {
        option
        for group in [*pytestconfig._parser._groups, pytestconfig._parser._anonymous]
        for each in group.options
        for option in each.names()
        if option.startswith("--testdb")
    }
    keys = {key for key in pytestconfig._parser._inidict if key.startswith("testdb")}
    marks = {mark.partition("(")[0] for mark in pytestconfig.getini("markers") if mark.startswith("testdb")}
    assert {"reset_db", "db_class", "db_session", "reset_db_module"} <= fixtures
    assert {"--testdb-reset-transactional", "--testdb-leaks", "--testdb-durations", "--testdb-templates"} <= options
    assert {"testdb_reset_transactional", "testdb_leaks"} <= keys
    assert "testdb" in marks
    words = fixtures | options | keys | marks
    assert {word for word in words if not re.search(rf"(?<![\w-]){word}(?![\w-])", text)} == set()


def test_the_order_that_is_drawn_is_the_one_of_showdeps(db: None) -> None:
    text = (DOCS / "explanation/how-it-works.md").read_text("utf-8")
    (drawn,) = re.findall(r"^emptied: (.*?)```", text, re.MULTILINE | re.DOTALL)
    tables = [name for name in re.findall(r"[a-z]+", drawn) if name not in {"and", "one", "statement"}]
    output = StringIO()
    call_command("showdeps", "testdb_demo.Fine", format="order", stdout=output)
    assert [line.rpartition("testdb_demo_")[2] for line in output.getvalue().split()] == tables


def test_the_drawings_are_what_their_script_draws() -> None:
    folder = DOCS / "explanation/drawings"
    script = run_path(str(folder / "draw.py"))
    drawn = {f"{name}.svg": script["draw"](name) for name in script["DRAWINGS"]}
    assert {path.name: path.read_text("utf-8") for path in folder.glob("*.svg")} == drawn


def test_what_is_drawn_in_text_fits_a_phone() -> None:
    drawn = [block for block in every_block("text") if re.search("[├└]", block.text)]
    assert len(drawn) >= 3
    assert {line for block in drawn for line in block.text.splitlines() if len(line) > 42} == set()
