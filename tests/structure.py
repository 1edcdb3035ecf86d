"""How the package is built, and what it runs through: ``python -m tests.structure [--json]``.

It prints the modules, their layers and sizes, and for the usual ways through the package the files, the calls and the
calls from one file to another. A call is counted by ``sys.setprofile`` where a function of the package begins, in a warm
process; comprehensions do not count. The demonstration app is left out. It needs the PostgreSQL server of the tests.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import json
import os
import sys
import tempfile
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from types import FrameType
from typing import Any

PACKAGE = Path(__file__).resolve().parents[1] / "testdb_app"


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """What one way runs through: numbers of files, of calls, and of calls whose caller is in another file."""

    files: int
    calls: int
    between_files: int


@dataclass
class CallCounter:
    """Counts calls of the package's functions."""

    files: set[str]
    calls: int = 0
    between: int = 0

    def __call__(self, frame: FrameType, event: str, _argument: object) -> None:
        """Count one event of ``sys.setprofile``."""
        if event != "call":
            return
        code = frame.f_code
        if not self._is_counted(code.co_filename) or code.co_name in {
            "<listcomp>",
            "<dictcomp>",
            "<setcomp>",
            "<genexpr>",
        }:
            return
        self.files.add(code.co_filename)
        self.calls += 1
        caller = frame.f_back
        while caller is not None and not self._is_counted(caller.f_code.co_filename):
            caller = caller.f_back
        if caller is not None and caller.f_code.co_filename != code.co_filename:
            self.between += 1

    @staticmethod
    def _is_counted(name: str) -> bool:
        return name.startswith(f"{PACKAGE}{os.sep}") and f"{os.sep}demo{os.sep}" not in name

    def result(self) -> Calls:
        """Return the numbers."""
        return Calls(files=len(self.files), calls=self.calls, between_files=self.between)


@contextmanager
def counting() -> Iterator[CallCounter]:
    """Count the calls of the block, of all threads that it starts."""
    counter = CallCounter(set())
    threading.setprofile(counter)
    sys.setprofile(counter)
    try:
        yield counter
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def read_modules() -> dict[str, int]:
    """Return the number of lines of each module, the demonstration app apart."""
    paths = [path.relative_to(PACKAGE) for path in sorted(PACKAGE.rglob("*.py"))]
    return {
        str(path): len((PACKAGE / path).read_text("utf-8").splitlines()) for path in paths if path.parts[0] != "demo"
    }


def longest_functions(limit: int) -> dict[str, int]:
    """Return the functions of more than *limit* lines."""
    found = {}
    for module in read_modules():
        for node in ast.walk(ast.parse((PACKAGE / module).read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > limit:
                    found[f"{module}:{node.name}"] = lines
    return found


def count_ways() -> dict[str, Calls]:
    """Count the calls of the ways through the package, each after it has run twice."""
    from django.core.management import call_command

    from testdb_app.baseline import capture_baseline
    from testdb_app.sessions import TestSessionFactory
    from tests.scratch import ScratchDatabase

    database = ScratchDatabase("structure")
    database.create()
    try:
        database.execute(
            "".join(
                f"CREATE TABLE t{n} (id serial PRIMARY KEY, above int REFERENCES t{max(n - 1, 0)});" for n in range(20)
            )
        )
        capture_baseline(database.alias, allow_database=database.name)
        resetter = database.resetter(to="baseline")

        def write(first: int = 0) -> None:
            with database.connection.cursor() as cursor:
                cursor.execute("".join(f"INSERT INTO t{n} DEFAULT VALUES;" for n in range(first, first + 5)))

        others = itertools.cycle((5, 10, 15))

        def command() -> None:
            call_command(
                "resetdb",
                database=database.alias,
                allow_database=[database.name],
                interactive=False,
                post_migrate=False,
                stdout=StringIO(),
            )

        def session() -> None:
            with (
                TestSessionFactory(databases=[database.alias], allow_database=database.name)() as opened,
                opened.connection.cursor() as cursor,
            ):
                cursor.execute("INSERT INTO t0 DEFAULT VALUES")

        ways: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
            "a reset of the same five tables": (write, resetter.reset),
            "a reset of other tables": (lambda: write(next(others)), resetter.reset),
            "a reset, nothing written": (lambda: None, resetter.reset),
            "resetdb --no-input": (write, command),
            "a session": (lambda: None, session),
        }
        result = {}
        for name, (prepare, run) in ways.items():
            for _ in range(3):
                prepare()
                run()
            prepare()
            with counting() as counter:
                run()
            result[name] = counter.result()
    finally:
        database.drop()
    return result


class _FirstTest:
    """A plugin of pytest that counts the calls of each test, its fixtures included."""

    def __init__(self) -> None:
        self.counted: list[Calls] = []

    def pytest_runtest_protocol(self) -> Iterator[Any]:
        with counting() as counter:
            result = yield
        self.counted.append(counter.result())
        return result


def count_first_test() -> dict[str, Calls]:
    """Count the calls of a first test with ``db_module``, in a run of pytest in this process."""
    import pytest

    plugin = _FirstTest()
    _FirstTest.pytest_runtest_protocol = pytest.hookimpl(wrapper=True)(_FirstTest.pytest_runtest_protocol)  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "test_it.py").write_text(
            textwrap.dedent("""
                from testdb_app.demo.models import Author

                def test_first(db_module):
                    Author.objects.create(name="Ada")
            """)
        )
        options = ["-q", "-p", "no:cacheprovider", "--ds=testproject.settings", f"--rootdir={folder}", folder]
        if pytest.main(options, plugins=[plugin]) != 0 or len(plugin.counted) != 1:
            raise SystemExit("The run of pytest with db_module failed; see above.")
    return {"a first test with db_module": plugin.counted[0]}


def main() -> None:
    """Print it all."""
    parser = argparse.ArgumentParser(prog="python -m tests.structure", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "testproject.settings")
    import django

    django.setup()
    modules = read_modules()
    ways = count_ways() | count_first_test()
    if options.json:
        print(json.dumps({"modules": modules, "ways": {name: asdict(calls) for name, calls in ways.items()}}))
        return
    folders: dict[str, list[int]] = {}
    for module, lines in modules.items():
        folders.setdefault(str(Path(module).parent), []).append(lines)
    print(f"{len(modules)} modules, {sum(modules.values()):,} lines (the demonstration app apart)\n")
    print(f"{'folder':<30}{'modules':>9}{'lines':>9}{'longest':>9}")
    for folder, sizes in sorted(folders.items()):
        print(f"{folder:<30}{len(sizes):>9}{sum(sizes):>9,}{max(sizes):>9,}")
    print("\nOver 700 lines:", ", ".join(f"{m} {n}" for m, n in modules.items() if n > 700) or "none")
    print("Functions over 80 lines:", ", ".join(f"{f} {n}" for f, n in longest_functions(80).items()) or "none")
    print(f"\n{'way, warm':<36}{'files':>7}{'calls':>7}{'between files':>15}")
    for name, calls in ways.items():
        print(f"{name:<36}{calls.files:>7}{calls.calls:>7}{calls.between_files:>15}")


if __name__ == "__main__":
    main()
