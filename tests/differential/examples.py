"""Random scenarios: a schema, a baseline, and rounds of writes by several sessions with a reset after each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from tests.differential import upkeep, writes
from tests.differential.extras import OF_ALL_TABLES, add_extras
from tests.differential.foreign_keys import add_keys
from tests.differential.model import Model
from tests.differential.scenario import SIGHTS, Reset, Scenario, Step
from tests.differential.tables import models

Draw = Any

_MIXES = ("alone",) * 9 + ("visitors",) * 4 + ("idle",) * 4 + ("writer",) * 2 + ("mates",) * 4 + ("rivals",)
_RESETTERS = ("warm",) * 8 + ("second", "new", "empty", "delete")
_KEEPS = ("untouched",) * 4 + ("auto", "auto", "never", "always")
_STATES = (
    "SET TIME ZONE 'Asia/Tokyo'; SET statement_timeout = '9s'",
    "SET app.x = '1'",
    "SELECT set_config('app.tenant', '1', false)",
    "LISTEN jobs",
    "LISTEN jobs; NOTIFY jobs, 'unread'",
    "SELECT pg_advisory_lock(42)",
    "DECLARE held CURSOR WITH HOLD FOR SELECT 1",
    "CREATE TEMPORARY TABLE of_the_session (id integer)",
    "PREPARE by_hand AS SELECT 1",
    "SELECT setseed(0.5)",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    "DO $$ BEGIN PERFORM set_config('app.x', '2', false); END $$",
    "BEGIN; SET LOCAL app.x = '3'; ROLLBACK",
)
"""What a test may leave in the own session."""
_TRAIL = ("", "", "wait")
"""Whether the server is given the time to notice that a session has ended."""


@st.composite
def scenarios(draw: Draw, *, version: int) -> Scenario:
    """Draw a scenario for a server of that major version."""
    model = draw(models(version=version))
    add_keys(draw, model)
    builder = draw(st.sampled_from(("own", "setup", "setup")))
    steps = _made(model, 0, builder)
    steps += draw(st.lists(_first_row(model, builder), max_size=12))
    before = len(model.made)
    add_extras(draw, model)
    steps += _made(model, before, builder)
    captures = draw(st.integers(0, 9)) > 0
    if captures:
        steps.append(Step(actor="capture"))
    if draw(st.booleans()):
        steps.append(Reset(resetter="warm" if captures else "empty", sight=draw(st.sampled_from(SIGHTS))).to_step())
    residents: set[str] = set()
    if captures and not draw(st.integers(0, 3)):
        rounds = draw(st.lists(_familiar_rounds(model), min_size=1, max_size=2))
    elif captures and draw(st.integers(0, 2)):
        rounds = draw(st.lists(_calm_round(model, residents), min_size=2, max_size=8))
    else:
        rounds = draw(st.lists(_round(model, residents, captures=captures), min_size=1, max_size=5))
    return Scenario(steps=_seen(draw, steps + [step for each in rounds for step in each]))


def _seen(draw: Draw, steps: list[Step]) -> tuple[Step, ...]:
    """Have what the last reset did compared."""
    last = steps[-1]
    if last.actor != "reset" or "unseen" not in last.words:
        return tuple(steps)
    return (*steps[:-1], replace(last, what=last.what.replace("unseen", draw(st.sampled_from(SIGHTS[1:])))))


@st.composite
def _first_row(draw: Draw, model: Model, builder: str) -> Step:
    if not draw(st.integers(0, 9)):
        return Step(actor=builder, what="try", sql=writes.any_write(draw, model)[1])
    return Step(actor=builder, what="try", sql=writes.insert(draw, draw(st.sampled_from(model.tables)))[1])


def _made(model: Model, start: int, builder: str) -> list[Step]:
    return [
        Step(actor="superuser" if what == OF_ALL_TABLES else builder, what=f"make {what}", sql=sql)
        for what, sql in model.made[start:]
    ]


@st.composite
def _round(draw: Draw, model: Model, residents: set[str], *, captures: bool) -> list[Step]:
    mix = draw(st.sampled_from(_MIXES))
    steps = _prepared_sessions(draw, residents, mix)
    staying = frozenset(residents)
    steps += [step for each in draw(st.lists(_steps(model, mix, staying), max_size=5)) for step in each]
    steps += _left_open(draw, model, mix, staying)
    if captures and not draw(st.integers(0, 24)):
        return [*steps, Step(actor="capture", what="again")]
    if captures and not draw(st.integers(0, 9)):
        return steps + _refused(draw, model, mix)
    keeps = draw(st.sampled_from(_KEEPS))
    if keeps != "untouched":
        states = draw(st.lists(st.sampled_from(_STATES), max_size=2))
        steps += [Step(actor="own", what="session state", sql=state) for state in states]
    reset = Reset(
        resetter=draw(st.sampled_from(_RESETTERS)) if captures else "empty",
        mix=mix,
        keeps=keeps,
        sight=draw(st.sampled_from((*SIGHTS, "unseen"))),
        watched=not draw(st.integers(0, 2)),
        again=not draw(st.integers(0, 3)),
    )
    return [*steps, reset.to_step()]


@st.composite
def _calm_round(draw: Draw, model: Model, residents: set[str]) -> list[Step]:
    """Draw a round in which the own connection is the only one to write, and nearly nothing but rows and sequences.

    The counters are to be trusted then; in most other rounds something stands against it.
    """
    mix = draw(st.sampled_from(("alone",) * 12 + ("idle",) * 3 + ("rivals",)))
    steps = _prepared_sessions(draw, residents, mix)
    kinds = [writes.any_write] * 8 + [writes.wrapped] * 2
    kinds += [writes.in_function, writes.committing, writes.prepared, writes.in_cte, writes.copy, _any_own]
    if draw(st.integers(0, 4)) == 4:
        kinds = [writes.sequence_move]
    steps += [step for each in draw(st.lists(_own_steps(model, kinds), max_size=4)) for step in each]
    reset = Reset(
        resetter=draw(st.sampled_from(("warm",) * 9 + ("second",))),
        mix=mix,
        keeps=draw(st.sampled_from(_KEEPS)),
        sight=draw(st.sampled_from(("unseen", "unseen", "seen-by-own"))),
        watched=not draw(st.integers(0, 3)),
        again=not draw(st.integers(0, 7)),
    )
    return [*steps, reset.to_step()]


@st.composite
def _familiar_rounds(draw: Draw, model: Model) -> list[Step]:
    """Draw rounds that write the same, which the resetter comes to expect, and one or two that do something else, too."""
    kinds = [writes.any_write] * 6 + [writes.wrapped, writes.in_cte, writes.sequence_move]
    familiar = [step for each in draw(st.lists(_own_steps(model, kinds), min_size=1, max_size=3)) for step in each]
    unseen, seen = (Reset(sight=sight).to_step() for sight in ("unseen", draw(st.sampled_from(SIGHTS))))
    steps = [*familiar, unseen] * draw(st.integers(2, 4))
    for last in (unseen, seen)[-draw(st.integers(1, 2)) :]:
        begins = familiar[: draw(st.integers(0, len(familiar)))]
        other = draw(st.lists(_own_steps(model, [*kinds, writes.copy, writes.in_function, _any_own]), max_size=2))
        steps += [*begins, *(step for each in other for step in each), *familiar[len(begins) :], last]
    return steps


@st.composite
def _own_steps(draw: Draw, model: Model, kinds: list[Any]) -> list[Step]:
    drawn = draw(st.sampled_from(kinds))(draw, model)
    return drawn if isinstance(drawn, list) else [Step(actor="own", what=drawn[0], sql=drawn[1])]


def _any_own(draw: Draw, model: Model) -> Any:
    kinds = (upkeep.any_upkeep, upkeep.on_session, upkeep.statistics_reset, _ending, _two_phases)
    return draw(st.sampled_from(kinds))(draw, model)


def _prepared_sessions(draw: Draw, residents: set[str], mix: str) -> list[Step]:
    """Close the sessions that the mix forbids and open those that it wants."""
    wanted = 1 if mix == "idle" else draw(st.integers(1, 2)) if mix in {"writer", "mates"} else 0
    names = ("mate_one", "mate_two") if mix == "mates" else ("first", draw(st.sampled_from(("second", "admin"))))
    stay = [name for name in sorted(residents) if name.startswith("mate") == (mix == "mates")][:wanted]
    steps = [
        Step(actor=name, what=f"close {draw(st.sampled_from(_TRAIL))}".strip())
        for name in sorted(residents.difference(stay))
    ]
    residents.intersection_update(stay)
    for name in [name for name in names if name not in residents][: wanted - len(residents)]:
        residents.add(name)
        steps.append(Step(actor=name, what="connects", sql="SELECT 1"))
    return steps


def _actors(mix: str, residents: frozenset[str]) -> tuple[str, ...]:
    if mix == "visitors":
        return ("own", "visitor", "visitor", "superuser")
    if mix in {"writer", "mates"}:
        return ("own", *sorted(residents), *sorted(residents), *(["superuser"] if mix == "writer" else []))
    return ("own",)


@st.composite
def _steps(draw: Draw, model: Model, mix: str, residents: frozenset[str]) -> list[Step]:
    actor = draw(st.sampled_from(_actors(mix, residents)))
    if actor == "superuser" or (actor.startswith("admin") and draw(st.booleans())):
        what, sql = upkeep.by_superuser(draw, model)
        return [Step(actor=actor, what=_trailed(draw, actor, what), sql=sql)]
    kinds = [writes.any_write] * 6 + [writes.wrapped] * 3
    kinds += [writes.in_function, writes.committing, writes.prepared, writes.in_cte, writes.copy]
    if not actor.startswith("admin"):
        # What a superuser makes anew is the superuser's, and a reset is rightly refused.
        kinds.append(upkeep.any_upkeep)
    if actor == "own":
        return draw(_own_steps(model, [*kinds, _any_own, _any_own, _any_own, _any_own]))
    what, sql = draw(st.sampled_from(kinds))(draw, model)
    return [Step(actor=actor, what=_trailed(draw, actor, what), sql=sql)]


def _trailed(draw: Draw, actor: str, what: str) -> str:
    return f"{what} {draw(st.sampled_from(_TRAIL))}".strip() if actor in {"visitor", "superuser"} else what


def _ending(draw: Draw, model: Model) -> list[Step]:
    """End the own connection: from here, or from the server."""
    return [
        Step(
            actor="own",
            what=f"{draw(st.sampled_from(('close', 'close', 'cut')))} {draw(st.sampled_from(_TRAIL))}".strip(),
        )
    ]


def _two_phases(draw: Draw, model: Model) -> list[Step]:
    """Prepare a transaction, and end it in the same session or another one."""
    write, ender = writes.any_write(draw, model)[1], draw(st.sampled_from(("own", "visitor")))
    end = draw(st.sampled_from(("COMMIT", "ROLLBACK")))
    return [
        Step(actor="own", what="prepare transaction", sql=f"BEGIN; {write}; PREPARE TRANSACTION 'gid'"),
        Step(actor=ender, what=f"{end.lower()} prepared", sql=f"{end} PREPARED 'gid'"),
    ]


def _left_open(draw: Draw, model: Model, mix: str, residents: frozenset[str]) -> list[Step]:
    """Leave work uncommitted in another session while others write, then end it one way or another."""
    if mix not in {"visitors", "writer", "mates"} or draw(st.integers(0, 2)):
        return []
    name = draw(st.sampled_from(sorted(residents))) if residents else "passer"
    steps = [Step(actor=name, what="left open", sql=f"BEGIN; {writes.any_write(draw, model)[1]}")]
    steps += [
        Step(actor=draw(st.sampled_from(("own", name))), what="meanwhile", sql=writes.any_write(draw, model)[1])
        for _ in range(draw(st.integers(0, 2)))
    ]
    ends = ["COMMIT", "ROLLBACK"] if residents else ["COMMIT", "ROLLBACK", "dropped", "cut"]
    end = draw(st.sampled_from(ends))
    if end in {"COMMIT", "ROLLBACK"}:
        steps.append(Step(actor=name, what=f"{end.lower()} of what was open", sql=end))
    if not residents:
        how = "cut" if end == "cut" else "close"
        steps.append(Step(actor=name, what=f"{end.lower()} {how} {draw(st.sampled_from(_TRAIL))}".strip()))
    return steps


def _refused(draw: Draw, model: Model, mix: str) -> list[Step]:
    """Leave a change of the schema behind, which a reset must refuse; then undo it, or capture again."""
    kind, sql, undo = upkeep.left_behind(draw, model)
    actor = draw(st.sampled_from(("own", "visitor")))
    # A type may have been the type of no column, or of tables without rows alone.
    is_type = kind.startswith(("enum", "row type", "domain"))
    refusal = Reset(resetter=draw(st.sampled_from(("warm", "new"))), mix=mix, refused=True, perhaps=is_type)
    return [
        Step(actor=actor, what=f"{kind} left behind", sql=sql),
        refusal.to_step(),
        Step(actor=actor, what=f"{kind} taken away", sql=undo) if undo else Step(actor="capture", what="again"),
        Reset(mix=mix).to_step(),
    ]
