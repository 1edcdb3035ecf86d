"""The cases of a network between client and server: how often they have to wait for each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace

from tests.benchmarks import candidates as who
from tests.benchmarks.cases_tables import Bench
from tests.benchmarks.databases import BenchmarkDatabase
from tests.benchmarks.network import SlowProxy
from tests.benchmarks.results import Case, Target
from tests.benchmarks.rounds import measure, same
from tests.scratch import default_parameters

TABLES = 300


class _Far(who.Candidate):
    """Behind a slow network; ``turns`` has the round trips of each reset."""

    proxy: SlowProxy
    turns: list[int]

    def ready(self, tables: Sequence[int]) -> Callable[[], object]:
        run = super().ready(tables)
        self.turns.append(-self.proxy.turns)
        return run

    def verify(self, tables: Sequence[int], result: object) -> None:
        self.turns[-1] += self.proxy.turns
        super().verify(tables, result)


class _FarFloor(_Far, who.Floor):
    pass


class _FarSelectOne(_Far, who.SelectOne):
    pass


class _FarOurs(_Far, who.Ours):
    pass


def _move_away(stack: ExitStack, chosen: type[_Far], near: BenchmarkDatabase) -> _Far:
    parameters = default_parameters()
    proxy = SlowProxy(parameters["host"], int(parameters.get("port") or 5432))
    stack.callback(proxy.close)
    alias = f"{near.alias}_far"
    # Encryption would take turns of its own, when the connection is opened.
    options = {"sslmode": "disable", "gssencmode": "disable"}
    near.register(alias, HOST="127.0.0.1", PORT=str(proxy.port), OPTIONS=options)
    candidate = chosen(near, tables=TABLES, alias=alias)
    candidate.proxy, candidate.turns = proxy, []
    stack.callback(candidate.connection.close)
    return candidate


def run_network(bench: Bench) -> Iterator[Case]:
    """Measure with five tables written, with another session connected, and with nothing written."""
    for key, title, other, base in (
        ("network", "the same five written", False, _FarFloor),
        ("network-other", "the same five written, another session connected", True, _FarFloor),
        ("network-nothing", "nothing written", False, _FarSelectOne),
    ):
        with ExitStack() as stack:
            make = stack.enter_context(bench.databases.copies(tables=TABLES))
            pair = [_move_away(stack, chosen, make()) for chosen in (base, _FarOurs)]
            for candidate in pair if other else ():
                stack.enter_context(candidate.database.connect()).execute("SELECT 1")
            choose: Callable[[], Sequence[int]] = list if base is _FarSelectOne else same(TABLES)
            case = Case(
                key=key,
                title=f"{TABLES} tables, {title}, a network with 1 ms a round trip",
                series=measure(pair, rounds=bench.rounds, choose=choose),
                base=base.name,
                note="most round trips of a reset: "
                + ", ".join(f"{candidate.name}: {max(candidate.turns[-bench.rounds :])}" for candidate in pair),
            )
            turns = max(pair[1].turns[-bench.rounds :])
        text = f"a network with 1 ms a round trip, {title}"
        yield replace(case, targets=(Target(text=text, measured=turns, limit=2, unit="round trips"),))
