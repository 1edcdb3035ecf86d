"""Every code block of every page is true: Python runs, commands are ones that their parsers take, files parse."""

from __future__ import annotations

import configparser
import re
import shlex
import subprocess
import tomllib
from argparse import ArgumentParser
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from django.conf import settings
from django.core.management import get_commands, load_command_class
from django.test import override_settings
from django.test.utils import get_runner
from django.utils.module_loading import import_string
from packaging.requirements import Requirement
from sphinx.cmd.build import get_parser

from testdb_app.conf import get_settings
from testproject.embedded import NoPostgresError, shared_server
from tests.benchmarks.__main__ import groups, parse
from tests.differential.__main__ import parse as parse_differential
from tests.documentation.pages import DOCS, ROOT, Block, blocks, every_block

LANGUAGES = {"python", "sh", "sql", "text", "ini", "toml", "diff"}
PAGE_THAT_IS_FOLLOWED = DOCS / "tutorial/first-hour.md"
"""By a test of its own, which runs its commands."""
RUNNER = "testdb_app.runner.ResetDiscoverRunner"


def test_every_block_is_of_a_language_that_is_checked() -> None:
    wrong = [block for block in every_block() if block.language not in LANGUAGES and not block.info.startswith("{")]
    assert [f"{block}: {block.info}" for block in wrong] == []


def commands_of(block: Block) -> list[str]:
    """Return the command lines of a block; of one that shows a session those after the prompt."""
    text = block.text.replace("\\\n", " ")
    if block.language == "text":
        return re.findall(r"^\$ (.*)$", text, re.MULTILINE)
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


COMMAND_LINES = [
    pytest.param(line, id=f"{block}: {line[:50]}")
    for block in [*every_block("sh"), *every_block("text")]
    if block.page != PAGE_THAT_IS_FOLLOWED or "skip" in block.info
    for line in commands_of(block)
    if not re.search(r"…|\[LABEL|\[options\]|\[--", line)  # what a command takes, not a line to type
]


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_every_command_line_is_one_that_the_command_takes(line: str, pytestconfig: pytest.Config) -> None:
    words = shlex.split(line, comments=True)
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words.pop(0)
    if words[0].endswith("python") and words[1] == "-m":
        words = words[2:]
    program, *arguments = words
    if program == "python":
        program, *arguments = arguments
    if program == "pytest":
        _, unknown = pytestconfig._parser.parse_known_and_unknown_args(arguments)
        assert unknown == []
    else:
        # Something new in a page needs a check here.
        CHECKS[program](arguments)


def parser_of(command: str) -> ArgumentParser:
    with override_settings(TEST_RUNNER=RUNNER):
        return load_command_class(get_commands()[command], command).create_parser("manage.py", command)


def take(parser: ArgumentParser, arguments: list[str]) -> None:
    with override_settings(TEST_RUNNER=RUNNER):
        parser.parse_args(arguments)


def check_requirement(text: str) -> None:
    if text.endswith(".whl"):
        return
    requirement = Requirement(text)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    if requirement.name == project["name"]:
        assert requirement.extras <= set(project["optional-dependencies"])


def check_docker(arguments: list[str]) -> None:
    """A container of PostgreSQL, of a version that is supported."""
    assert arguments[0] in {"run", "compose"}
    if arguments[0] == "run":
        (image,) = [word for word in arguments if word.startswith("postgres:")]
        assert int(image.partition(":")[2].partition("-")[0]) >= 15


def check_django(arguments: list[str]) -> None:
    take(parser_of(arguments[0]), arguments[1:])


def check_pip(arguments: list[str]) -> None:
    assert arguments[0] == "install"
    for requirement in arguments[1:]:
        check_requirement(requirement)


def check_script(arguments: list[str]) -> None:
    assert (ROOT / arguments[0]).is_file()


def check_program(name: str, arguments: list[str]) -> None:
    """A program of PostgreSQL, whose help tells its options."""
    try:
        program = shared_server().installation.program(name)
    except NoPostgresError:
        pytest.skip("there is no PostgreSQL here")
    help_text = subprocess.run([program, "--help"], capture_output=True, text=True, check=True).stdout
    assert {word for word in arguments if word.startswith("--") and f"{word}" not in help_text} == set()


def check_folder(arguments: list[str]) -> None:
    assert (ROOT / arguments[0]).is_dir()


def check_sphinx(arguments: list[str]) -> None:
    options = get_parser().parse_args(arguments)
    assert (ROOT / options.sourcedir / "conf.py").is_file()


def check_nothing_given(arguments: list[str]) -> None:
    assert arguments == []


def check_benchmarks(arguments: list[str]) -> None:
    parse(arguments, list(groups()))


def check_differential(arguments: list[str]) -> None:
    parse_differential(arguments)


CHECKS: dict[str, Callable[[list[str]], None]] = {
    "manage.py": check_django,
    "pip": check_pip,
    "initdb": partial(check_program, "initdb"),
    "pg_ctl": partial(check_program, "pg_ctl"),
    "cd": check_folder,
    "sh": check_script,
    "bash": check_script,
    "docker": check_docker,
    "sphinx": check_sphinx,
    "codespell_lib": check_nothing_given,
    "tests.benchmarks": check_benchmarks,
    "tests.differential": check_differential,
    "tests.structure": check_nothing_given,
    "tests.vendor": check_nothing_given,
}


@pytest.mark.parametrize(
    "block", [block for block in every_block("python") if "settings" in block.info.split()], ids=str
)
def test_settings_in_the_pages_are_settings(block: Block) -> None:
    if block.missing:
        pytest.skip(f"{block.missing[0]} is not installed")
    namespace: dict[str, Any] = {
        "INSTALLED_APPS": [],
        "DATABASES": {"default": {"ENGINE": "django.db.backends.postgresql", "NAME": "shop"}},
        "__file__": str(ROOT / "settings.py"),
    }
    exec(compile(block.text, str(block), "exec"), namespace)
    given = {name: value for name, value in namespace.items() if name.isupper()}
    apps = list(dict.fromkeys([*settings.INSTALLED_APPS, *given["INSTALLED_APPS"]]))
    with override_settings(TESTDB=given.get("TESTDB", {}), INSTALLED_APPS=apps):
        get_settings()
    assert all(import_string(f"{engine['ENGINE']}.base.DatabaseWrapper") for engine in given["DATABASES"].values())
    known = {"CHARSET", "COLLATION", "CREATE_DB", "DEPENDENCIES", "MIGRATE", "MIRROR", "NAME", "TEMPLATE", "SERIALIZE"}
    assert {key for database in given["DATABASES"].values() for key in database.get("TEST", {})} <= known
    if "TEST_RUNNER" in given:
        assert get_runner(None, given["TEST_RUNNER"])


@pytest.mark.parametrize(
    "block", [block for block in every_block("ini") if block.page != PAGE_THAT_IS_FOLLOWED], ids=str
)
def test_ini_files_in_the_pages_parse_and_have_keys_that_pytest_knows(
    block: Block, pytestconfig: pytest.Config
) -> None:
    parsed = configparser.ConfigParser()
    parsed.read_string(block.text)
    assert {key for key in parsed["pytest"] if not is_known(key, pytestconfig)} == set()


@pytest.mark.parametrize("block", every_block("toml"), ids=str)
def test_toml_in_the_pages_parses_and_has_keys_that_pytest_knows(block: Block, pytestconfig: pytest.Config) -> None:
    parsed = tomllib.loads(block.text)
    options = parsed["tool"]["pytest"]["ini_options"]
    assert {key for key in options if not is_known(key, pytestconfig)} == set()


def is_known(key: str, config: pytest.Config) -> bool:
    try:
        config.getini(key)
    except (KeyError, ValueError):
        return key == "django_settings_module"  # configparser's spelling
    return True


def test_the_two_commands_of_the_readme_are_there() -> None:
    (block,) = [block for block in blocks(ROOT / "README.md", "sh") if block.text.startswith("sh ")]
    scripts = re.findall(r"^sh (\S+)", block.text, re.MULTILINE)
    assert scripts == ["testproject/demo.sh", "tests/run.sh"]
    assert all((ROOT / script).is_file() for script in scripts)
