"""What it gains to put the data of a test server into memory, or not to wait for the disk: whole tests, and a new test database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.cases_tables import Bench
from tests.benchmarks.cases_testcases import MODELS, measure_project
from tests.benchmarks.disk import filesystem, is_in_memory, own_server
from tests.benchmarks.results import Case, Series

ROUNDS = 5
MEMORY = Path("/dev/shm")
AS_IT_COMES = "a disk, as it comes"
_NO_FSYNC = {"fsync": "off", "full_page_writes": "off"}
_CLASSES = ("TransactionTestCase", "ResetTransactionTestCase that writes", "TestCase that writes")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Server:
    name: str
    folder: Path
    changes: dict[str, str]


def run_durability(bench: Bench) -> Iterator[Case]:
    """Measure the same tests on servers that differ in where their data are, and in what they wait for.

    They take turns, so that what disturbs one disturbs all.
    """
    if bench.disk is None or is_in_memory(bench.disk) or not is_in_memory(MEMORY):
        print("No disk, or no memory disk, to compare. Choose a folder on a disk with --disk FOLDER.\n")
        return
    servers = [
        _Server(name=AS_IT_COMES, folder=bench.disk, changes={}),
        _Server(name="a disk, synchronous_commit=off", folder=bench.disk, changes={"synchronous_commit": "off"}),
        _Server(name="a disk, fsync=off, full_page_writes=off", folder=bench.disk, changes=_NO_FSYNC),
        _Server(name="memory, as it comes", folder=MEMORY, changes={}),
        _Server(name="memory, fsync=off, full_page_writes=off", folder=MEMORY, changes=_NO_FSYNC),
    ]
    found: dict[str, dict[str, list[float]]] = {}
    with ExitStack() as stack:
        hosts = [stack.enter_context(own_server(server.folder, **server.changes)) for server in servers]
        for _ in range(ROUNDS):
            for server, host in zip(servers, hosts, strict=True):
                making, times = measure_project(2, *_CLASSES, NAME="durability", HOST=host)
                for case, measured in {"a new test database": (making,), **times}.items():
                    found.setdefault(case, {}).setdefault(server.name, []).extend(measured)
    for number, (case, by_server) in enumerate(found.items()):
        series = [Series(name=name, role="rival", times=tuple(times)) for name, times in by_server.items()]
        yield Case(
            key=f"durability-{number}",
            title=f"{case}, {MODELS} models, {filesystem(bench.disk)} and {filesystem(MEMORY)}",
            series=tuple(series),
            base=AS_IT_COMES,
        )
