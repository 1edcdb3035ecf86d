"""README and the pages in docs/ say what is so: commands, options, links, check ids, settings, rules."""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
from _pytest.fixtures import FixtureFunctionDefinition
from django.core.management import load_command_class

from testdb_app import baseline, checks, data, guard, pytest_plugin, runner
from testdb_app.backends.base import Action
from testdb_app.conf import Settings
from testdb_app.options import TARGETS
from testdb_app.rendering import FORMATS
from testdb_app.report import ResetReport, ResetTable
from testdb_app.schema import QualifiedName

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = {"resetdb": "testdb_app", "showdeps": "testdb_app", "loaddemo": "testdb_app.demo"}
# Django's own, which its own documentation tells.
OF_DJANGO = {"-h", "--help", "--version", "-v", "--verbosity", "--settings", "--pythonpath", "--traceback"}
OF_DJANGO |= {"--no-color", "--force-color", "--skip-checks"}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def parser_of(command: str):
    return load_command_class(COMMANDS[command], command).create_parser("manage.py", command)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_line_is_one_that_the_command_takes(page: Path) -> None:
    for block in [*blocks(page, "sh"), *blocks(page, "text")]:
        for line in re.findall(r"^(?:\$ )?python manage\.py (.*)$", block, re.MULTILINE):
            command, *arguments = shlex.split(line, comments=True)
            if command in COMMANDS and not set("[…") & set("".join(arguments)):
                parser_of(command).parse_args(arguments)


def test_the_two_commands_of_the_readme_are_there() -> None:
    (block,) = [block for block in blocks(PAGES[0], "sh") if block.startswith("sh ")]
    scripts = re.findall(r"^sh (\S+)", block, re.MULTILINE)
    assert scripts == ["testproject/demo.sh", "tests/run.sh"]
    assert all((ROOT / script).is_file() for script in scripts)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_page_of_the_commands_tells_every_option(command: str) -> None:
    text = (ROOT / "docs/commands.md").read_text()
    options = {option for action in parser_of(command)._actions for option in action.option_strings}
    assert {option for option in options - OF_DJANGO if option not in text} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_inside_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_in_the_pages_compiles(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block, str(page), "exec")


def test_the_page_on_safety_tells_every_rule_check_and_setting() -> None:
    text = (ROOT / "docs/safety.md").read_text()
    rules = set(re.findall(r"^``([a-z-]+)``", guard.__doc__ or "", re.MULTILINE))
    ids = set(re.findall(r"testdb_app\.[EW]\d{3}", checks.__doc__ or ""))
    settings = {field.name.upper() for field in fields(Settings)}
    assert len(rules) >= 9
    assert len(ids) >= 5
    assert {word for word in rules | ids | settings if word not in text} == set()


def test_the_page_of_the_commands_tells_every_format() -> None:
    text = (ROOT / "docs/commands.md").read_text()
    assert {name for name in FORMATS if f"| `{name}` |" not in text} == set()


def test_the_page_of_the_commands_tells_every_field_of_the_report() -> None:
    text = (ROOT / "docs/commands.md").read_text()
    table = ResetTable(name=QualifiedName("public", "book"), action=Action.RESTORE, rows=0)
    given = {field.name: () for field in fields(ResetReport)} | {"tables": (table,)}
    report = ResetReport(**given).as_dict()
    told = {*report, *report["tables"][0], *(action.value for action in Action if action is not Action.RESTART)}
    assert {word for word in told if f"`{word}`" not in text} == set()


def test_the_page_on_baselines_tells_every_function_parameter_and_target() -> None:
    text = (ROOT / "docs/baseline.md").read_text()
    functions = [
        value for _, value in inspect.getmembers(baseline, inspect.isfunction) if value.__module__ == baseline.__name__
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


def test_the_page_on_data_tells_every_function_with_its_parameters_and_its_code_runs() -> None:
    page = ROOT / "docs/data.md"
    text = page.read_text()
    functions = [getattr(data, name) for name in data.__all__ if inspect.isfunction(getattr(data, name))]
    assert len(functions) >= 10
    for function in functions:
        (call,) = re.findall(rf"`{function.__name__}\(([^`]*, \*?[^`]*|[^`]*using=[^`]*|before[^`]*)\)`", text)
        told = ast.parse(f"def f({call}): ...").body[0].args
        arguments = [
            *told.posonlyargs,
            *told.args,
            *filter(None, [told.vararg]),
            *told.kwonlyargs,
            *filter(None, [told.kwarg]),
        ]
        parameters = inspect.signature(function).parameters
        assert [argument.arg for argument in arguments] == list(parameters)
        defaults = [ast.literal_eval(default) for default in [*told.defaults, *told.kw_defaults] if default is not None]
        given = [p.default for p in parameters.values() if p.default is not inspect.Parameter.empty]
        assert defaults == given
    assert {name for name in data.__all__ if name not in text} <= {
        "RowDifference",
        "SequenceDifference",
        "SeedRegistry",
    }
    (block,) = [block for block in blocks(page, "python") if block.startswith("from testdb_app.data import Values")]
    exec(compile(block, str(page), "exec"), {})


def test_the_page_on_test_cases_tells_every_class_option_and_target() -> None:
    text = (ROOT / "docs/test-cases.md").read_text()
    parser = argparse.ArgumentParser()
    runner.ResetDiscoverRunner.add_arguments(parser)
    own = {option for action in parser._actions for option in action.option_strings if "reset" in option}
    assert own == {"--reset-transaction-tests"}
    classes = {
        "ResetMixin",
        "ResetTransactionTestCase",
        "ResetLiveServerTestCase",
        "ResetDiscoverRunner",
        "ResetRunnerMixin",
    }
    assert {word for word in {*own, *classes} if word not in text} == set()
    assert {target for target in TARGETS if f'`"{target}"`' not in text} == set()


def test_the_page_on_pytest_tells_every_option_and_fixture(pytestconfig: pytest.Config) -> None:
    text = (ROOT / "docs/pytest.md").read_text()
    fixtures = {name for name, value in vars(pytest_plugin).items() if isinstance(value, FixtureFunctionDefinition)}
    assert fixtures == {"reset_db"}
    assert {name for name in fixtures if f"`{name}`" not in text} == set()
    options = {name for name in pytestconfig.option.__dict__ if name.startswith("testdb_")}
    assert options == {pytest_plugin.INI}
    assert f"{pytest_plugin.INI} = true" in text
    assert f"--{pytest_plugin.INI.replace('_', '-')}" in text
