"""Requests that are answered together get the very answers that each would get alone."""

import asyncio
import math
import random
import time

import msgspec
import pytest
from declared import Features, all_kinds
from drawn import ITEMS, USERS, Drawn, fold_in_slices, made_context, records, seeds, system_of
from hypothesis import given, settings
from hypothesis import strategies as st
from test_online_offline import UNSHRUNK

from agents.learner import Learner
from persona_stream.in_process import InProcess
from persona_stream.serving.schemas import Answer, RankRequest
from persona_stream.serving.turns import MOST_ITEMS, Turns
from persona_stream.stream.partition import Partition
from persona_stream.stream.slices import LogRecord, Slice
from tables import learner as learner_table
from tables.features.plan import feature_set

SHIPPED = "[features]\nclicks = {kind = 'window_count', events = ['click'], window = '7d'}\nplace = {kind = 'position'}"


def _learned(features: Features | str, drawn: Drawn) -> InProcess:
    """A system that has folded a log, and learned of it."""
    system = system_of(features, with_examples=True)
    drawn.tell_what_is_known(system)
    examples = fold_in_slices(system, records(drawn.events), drawn.rng)
    if examples:
        learner = Learner(system.settings, feature_set(system.settings))
        models: Partition[learner_table.LearnerState] = Partition(learner_table.codec)
        rows = [LogRecord(at, 0, one.key, one.value) for at, one in enumerate(examples)]
        learner.process(Slice("", 0, rows), models)
        state = models.get("0")
        assert state is not None
        system.replica.tables["learner"].apply("0", learner_table.codec.encode(state))
    for user in USERS:
        system.show_user(user)
    moment_ms = max((event["ts"] for event in drawn.events), default=0)
    system.replica.as_of_ms = moment_ms + 1
    return system


def _request(rng: random.Random) -> RankRequest:
    items = rng.choices([*ITEMS, "unvisited", "unheard of"], k=rng.randint(1, 8))
    return RankRequest(
        user=rng.choice([*USERS, "nobody"]),
        items=items,
        slot=rng.choice(["home", ""]),
        context=made_context(rng, len(items)),
        k=rng.choice([None, 2]),
        explain=True,
    )


def _told(answer: Answer) -> bytes:
    """All but its id."""
    return msgspec.json.encode(msgspec.structs.replace(answer, decision_id=""))


@settings(deadline=None, max_examples=40, phases=UNSHRUNK)
@given(all_kinds(), seeds, st.sampled_from([0, 20, 300, 1200]))
def test_together_is_as_one_by_one(features: Features, seed: int, count: int) -> None:
    drawn = Drawn(seed, count)
    system = _learned(features, drawn)
    asked = [_request(drawn.rng) for _ in range(drawn.rng.randint(2, 9))]
    started_s = [drawn.rng.choice([math.inf, math.inf, -math.inf]) for _ in asked]
    together = system.engine.rank_all(list(zip(asked, started_s, strict=True)))
    for request, start_s, answer in zip(asked, started_s, together, strict=True):
        assert _told(answer) == _told(system.engine.rank(request, started_s=start_s))


@pytest.fixture(scope="module")
def system() -> InProcess:
    return _learned(SHIPPED, Drawn(7, 1200))


async def test_requests_of_one_turn_are_answered_all(system: InProcess) -> None:
    rng, turns = random.Random(1), Turns(system.engine)
    # More than go into one turn.
    asked = [_request(rng) for _ in range(20)]
    many = [f"i{n}" for n in range(MOST_ITEMS // 2)]
    asked += [RankRequest(user="u0", items=many) for _ in range(3)]
    now_s = time.monotonic() + 60
    answers = await asyncio.gather(*(turns.rank(request, started_s=now_s) for request in asked))
    assert {answer.policy for answer in answers} >= {"online", "trending"}
    for request, answer in zip(asked, answers, strict=True):
        assert _told(answer) == _told(system.engine.rank(request, started_s=now_s))


async def test_one_that_cannot_be_answered_takes_no_other_along(system: InProcess) -> None:
    turns = Turns(system.engine)
    broken = RankRequest(user="u0", items=[["no id"]])  # type: ignore[list-item]  # no request that is decoded has such
    good = RankRequest(user="u0", items=["i1", "i2"])
    asked = [turns.rank(request, started_s=math.inf) for request in (good, broken, good)]
    first, failed, last = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(failed, TypeError)
    assert isinstance(first, Answer)
    assert isinstance(last, Answer)
    assert [item.item for item in first.items] == [item.item for item in last.items]


async def test_whoever_hangs_up_is_left_out(system: InProcess) -> None:
    turns = Turns(system.engine)
    request = RankRequest(user="u0", items=["i1", "i2"])
    gone, waiting = (asyncio.create_task(turns.rank(request, started_s=math.inf)) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    assert len((await waiting).items) == 2
    with pytest.raises(asyncio.CancelledError):
        await gone
