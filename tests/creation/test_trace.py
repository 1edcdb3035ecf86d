"""What a build used is seen, by whom it was used is told apart, and nothing stays behind."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings

from testdb_app.creation.key import project_root
from testdb_app.creation.trace import Trace
from tests.creation.key_project import Project

HERE = "tests/creation/test_trace.py"
before_3_12 = pytest.mark.skipif(sys.version_info >= (3, 12), reason="Python 3.12 has sys.monitoring")
since_3_12 = pytest.mark.skipif(sys.version_info < (3, 12), reason="Python 3.11 has no sys.monitoring")


def run_library(code: str, name: str = "acme", **names: Any) -> None:
    """Run code as if it were a library's."""
    exec(compile(code, f"/usr/lib/x/site-packages/{name}/__init__.py", "exec"), {"__name__": name, "os": os, **names})


def variable(name: str) -> str:
    """Return the name of a variable that is nowhere in this file."""
    return f"SHOP_{name}"


def state_of_process() -> list[Any]:
    """Return what a trace replaces while it is on."""
    tools = [sys.monitoring.get_tool(each) for each in range(6)] if sys.version_info >= (3, 12) else []
    return [
        *(sys.gettrace(), sys.getprofile(), threading.gettrace(), threading.getprofile(), tools),
        *(type(os.environ).__getitem__, dict(vars(type(django_settings)))),
    ]


@pytest.fixture
def fresh_tracers() -> Iterator[None]:
    """Take coverage's trace function away for the test, which sets its own."""
    before = sys.gettrace(), sys.getprofile(), threading.gettrace(), threading.getprofile()
    ways: list[Callable[[Any], None]] = [sys.settrace, sys.setprofile, threading.settrace, threading.setprofile]
    for put in ways:
        put(None)
    yield
    for put, value in zip(ways, before, strict=True):
        put(value)


def test_nothing_stays_behind_even_of_a_build_that_fails() -> None:
    before = state_of_process()
    with pytest.raises(ZeroDivisionError), Trace() as trace:
        assert state_of_process() != before
        assert os.environ["PATH"]
        print(1 / 0)
    assert state_of_process() == before
    assert os.environ.get(variable("LATER")) is None
    manifest = trace.manifest()
    assert "PATH" in manifest.environment
    assert "SHOP_LATER" not in manifest.environment


def test_one_trace_at_a_time_and_the_first_goes_on() -> None:
    with Trace() as first:
        before = state_of_process()
        with pytest.raises(RuntimeError, match="one template after the other"), Trace():
            pass
        assert state_of_process() == before
        os.environ.get(variable("AFTER"))
    assert "SHOP_AFTER" in first.manifest().environment


def test_code_that_runs_again_is_seen_by_each_trace() -> None:
    for _ in range(3):
        with Trace() as trace:
            run_library("")
            of_the_project()
        assert trace.note is None
        assert HERE in trace.manifest().files


def of_the_project() -> None:
    """A function of the project."""


def test_code_of_threads_that_are_started_meanwhile_is_seen() -> None:
    with Trace() as trace:
        thread = threading.Thread(target=of_the_project)
        thread.start()
        thread.join()
    assert HERE in trace.manifest().files


def test_nothing_is_seen_where_nothing_ran() -> None:
    with Trace() as trace:
        pass
    assert HERE not in trace.manifest().files


@before_3_12
@pytest.mark.usefixtures("fresh_tracers")
@pytest.mark.parametrize("taken", ["trace", "profile"])
def test_a_debugger_or_a_profiler_keeps_what_it_has(taken: str) -> None:
    seen = []

    def theirs(frame: Any, event: str, argument: Any) -> None:
        seen.append(frame.f_code.co_name)

    for module in (sys, threading):
        getattr(module, f"set{taken}")(theirs)
    before = state_of_process()
    with Trace() as trace:
        of_the_project()
        thread = threading.Thread(target=of_the_project)
        thread.start()
        thread.join()
    assert state_of_process() == before
    assert seen.count("of_the_project") == (2 if taken == "trace" else 4)
    assert trace.note is None
    assert HERE in trace.manifest().files


@before_3_12
@pytest.mark.usefixtures("fresh_tracers")
def test_where_others_have_both_functions_each_loaded_module_counts() -> None:
    def theirs(*_: Any) -> None: ...

    for put in (sys.settrace, sys.setprofile):
        put(theirs)
    with Trace() as trace:
        pass
    assert (sys.gettrace(), sys.getprofile()) == (theirs, theirs)
    assert trace.note == "other tools have the trace function and the profile function"
    assert {HERE, "tests/creation/key_project.py"} <= set(trace.manifest().files)


@before_3_12
@pytest.mark.usefixtures("fresh_tracers")
def test_where_another_tool_takes_the_function_meanwhile_each_loaded_module_counts() -> None:
    def theirs(*_: Any) -> None: ...

    with Trace() as trace:
        sys.settrace(theirs)
    assert sys.gettrace() is theirs
    assert trace.note == "another tool took the trace function"
    assert "tests/creation/key_project.py" in trace.manifest().files


@since_3_12
def test_where_no_identifier_is_free_each_loaded_module_counts() -> None:
    monitoring: Any = sys.monitoring  # type: ignore[attr-defined,unused-ignore]
    free = [each for each in (3, 4, 5) if monitoring.get_tool(each) is None]
    for each in free:
        monitoring.use_tool_id(each, "another")
    try:
        with Trace() as trace:
            pass
        assert [monitoring.get_tool(each) for each in free] == ["another"] * len(free)
    finally:
        for each in free:
            monitoring.free_tool_id(each)
    assert trace.note == "other tools have all free identifiers of sys.monitoring"
    assert {HERE, "tests/creation/key_project.py"} <= set(trace.manifest().files)


@pytest.mark.parametrize(
    "tool",
    [
        ["coverage", "run", "--data-file=shop.coverage"],
        pytest.param(["cProfile", "-o", "shop.profile"], marks=pytest.mark.nightly),
    ],
)
def test_coverage_and_a_profiler_see_what_they_see_and_the_manifest_is_the_same(
    tmp_path: Path, tool: list[str]
) -> None:
    project = Project(tmp_path)
    script = project.path("build.py")
    script.write_text(
        "import json, sys\nfrom tests.creation.key_probe import answer\n"
        "print(json.dumps({name: value for name, value in answer({'do': 'build'}).items() if name in ('manifest', 'note')}))\n"
    )
    # Where the tests themselves are measured, coverage would start in each process, and a profiler takes the other function.
    measured = {name: value for name, value in project.environment.items() if not name.startswith("COVERAGE_")}
    environment = {**measured, "COVERAGE_RCFILE": os.devnull}
    found = []
    for command in (["build.py"], ["-m", *tool, "build.py"]):
        done = subprocess.run(
            [sys.executable, *command], cwd=project.folder, env=environment, capture_output=True, text=True, check=True
        )
        found.append(json.loads(done.stdout))
    assert found[0] == found[1]
    assert found[0]["note"] is None
    if tool[0] == "coverage":
        report = [sys.executable, "-m", "coverage", "report", "--data-file=shop.coverage", "--include=shop/pricing.py"]
        done = subprocess.run(report, cwd=project.folder, env=environment, capture_output=True, text=True, check=True)
        assert "100%" in done.stdout
    else:
        assert project.path("shop.profile").stat().st_size > 10_000


def test_a_variable_counts_where_the_projects_code_reads_it() -> None:
    readers: list[Callable[[str], Any]] = []
    with Trace() as trace:
        os.environ.get(variable("GET"))
        os.getenv(variable("GETENV"))
        assert variable("IN") not in os.environ
        with pytest.raises(KeyError):
            print(os.environ[variable("ITEM")])
        os.environ.setdefault(variable("SET"), "x")
        del os.environ[variable("SET")]
        if os.supports_bytes_environ:
            os.environb.get(variable("BYTES").encode())
        run_library("os.environ.get('ACME' + '_OWN')")
        # A library that reads it for the project.
        run_library("def read(name): return os.environ.get(name)\nread_in.append(read)", "environ", read_in=readers)
        readers[0](variable("BY_ENVIRON"))
        os.environ.get("PYTEST_CURRENT_TEST")
    names = set(trace.manifest().environment)
    kinds = ("GET", "GETENV", "IN", "ITEM", "SET", "BY_ENVIRON", *(("BYTES",) if os.supports_bytes_environ else ()))
    assert set(map(variable, kinds)) <= names
    assert names.isdisjoint({"ACME_OWN", "PYTEST_CURRENT_TEST"})


def test_a_setting_counts_whoever_reads_it_but_debug() -> None:
    with Trace() as trace:
        run_library("settings.FIXTURE_DIRS; settings.DEBUG; settings.SECRET_KEY", settings=django_settings)
    assert {"FIXTURE_DIRS"} == trace._settings - {"DEBUG", "SECRET_KEY"}
    assert "DEBUG" not in trace._settings
    assert "SECRET_KEY" not in trace.manifest().settings
    with Trace() as trace:
        assert django_settings.DEBUG is False
    assert "DEBUG" in trace.manifest().settings


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder inside of the project's root, which pytest's folders are not."""
    made = project_root() / f"tests/creation/made_by_test_trace_{os.getpid()}"
    made.mkdir()
    yield made
    for path in sorted(made.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    made.rmdir()


def names_of(trace: Trace, folder: Path) -> list[str]:
    start = f"{folder.relative_to(project_root()).as_posix()}/"
    manifest = trace.manifest()
    return [name.removeprefix(start) for name in (*manifest.files, *manifest.listings) if name.startswith(start)]


def test_files_count_however_they_are_opened_for_reading(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("open", "path", "descriptor", "bytes", "relative", "target", "both", "\udcff"):
        (folder / name).touch()
    (folder / "link").symlink_to("target")
    with Trace() as trace:
        (folder / "open").open().close()
        (folder / "path").read_text()
        os.close(os.open(folder / "descriptor", os.O_RDONLY))
        open(os.fsencode(folder / "bytes"), "rb").close()  # noqa: PTH123 - as bytes
        (folder / "link").read_text()
        (folder / "\udcff").read_text()
        with pytest.raises(FileNotFoundError):
            (folder / "missing").read_text()
        (folder / "written").write_text("")
        (folder / "written").read_text()
        (folder / "both").open("r+").close()
        monkeypatch.chdir(folder)
        Path("relative").open().close()
    monkeypatch.chdir(project_root())
    assert names_of(trace, folder) == sorted(
        ["open", "path", "descriptor", "bytes", "link", "\udcff", "missing", "relative"]
    )


def test_lists_of_files_count_where_the_project_makes_them(folder: Path) -> None:
    for name in ("walked/inner/a.txt", "listed/a.txt", "scanned/a.txt", "of_library/a.txt", "[odd]/a.txt"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("")
    (folder / "imported").mkdir()
    (folder / "imported/made_for_trace.py").write_text("")
    with Trace() as trace:
        assert list(os.walk(folder / "walked"))
        assert os.listdir(folder / "listed")  # noqa: PTH208
        assert list((folder / "scanned").glob("*.txt"))
        assert list((folder / "[odd]").iterdir())
        run_library("os.listdir(path)", path=folder / "of_library")
        sys.path.insert(0, str(folder / "imported"))
        try:
            __import__("made_for_trace")
        finally:
            del sys.path[0], sys.modules["made_for_trace"]
    assert [name for name in names_of(trace, folder) if "*" in name] == [
        "[[]odd]/*", "listed/*", "scanned/*", "walked/*", "walked/inner/*",
    ]  # fmt: skip


def test_files_of_the_system_of_pytest_and_of_libraries_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "outside.txt").write_text("")
    with Trace() as trace:
        for path in ("/proc/self/status", os.devnull, os.__file__, pytest.__file__, tmp_path / "outside.txt"):
            Path(path).open("rb").close()
    files = trace.manifest().files
    assert not [
        name for name in files if name.endswith(("status", "null", "os.py", "pytest/__init__.py", "outside.txt"))
    ]


def test_what_is_done_outside_of_the_database_is_named(folder: Path) -> None:
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    made = folder.relative_to(project_root()).as_posix()
    with Trace() as trace:
        (folder / "logo.png").write_text("")
        run_library("path.write_text('')", path=folder / "by_library")
        socket.create_connection(("127.0.0.1", port)).close()
        subprocess.run([sys.executable, "-c", ""], check=True)
        thread = threading.Thread(target=lambda: (folder / "of_a_thread").write_text(""))
        thread.start()
        thread.join()
        (folder / "logo.png").read_text()
    server.close()
    assert trace.outside == tuple(
        sorted(
            [
                f"{HERE} writes {made}/logo.png",
                f"acme writes {made}/by_library",
                f"{HERE} connects to 127.0.0.1:{port}",
                f"{HERE} runs {Path(sys.executable).name}",
            ]
        )
    )
