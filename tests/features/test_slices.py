"""Online is offline on random logs: the examples that the stream makes are what the engine, asked just before, says."""

import random
from itertools import groupby

import numpy as np
from declared import Features, all_kinds
from drawn import Drawn, fold_in_slices, records, seeds, sizes, system_of
from hypothesis import Phase, given, settings

from persona_stream.in_process import InProcess
from persona_stream.kafka.writer import Record
from persona_stream.vocabulary.messages import Example, decode_example

# Features of every kind at once take minutes to shrink; the assertion names the one that is wrong.
UNSHRUNK = (Phase.explicit, Phase.reuse, Phase.generate)


def examples_of(made: list[Record]) -> list[list[Example]]:
    """Examples as the stream made them: the rows of one outcome together, the chosen item's first."""
    rows = [decode_example(record.value) for record in made]
    return [list(group) for _, group in groupby(rows, key=lambda row: (row.user, row.group))]


def _told(features: Features, drawn: Drawn, *, with_examples: bool) -> InProcess:
    system = system_of(features, with_examples=with_examples)
    drawn.tell_what_is_known(system)
    return system


@settings(deadline=None, max_examples=30, phases=UNSHRUNK)
@given(all_kinds(), seeds, sizes)
def test_the_stream_says_what_the_engine_says_just_before(features: Features, seed: int, count: int) -> None:
    drawn = Drawn(seed, count)
    log = records(drawn.events)
    online = examples_of(fold_in_slices(_told(features, drawn, with_examples=True), log, drawn.rng))
    asked = {rows[0].group: rows for rows in online}
    assert len(asked) == len(online)

    engine = _told(features, drawn, with_examples=False)
    # The place in the list is known to the stream alone: it has seen what was shown.
    names = engine.engine.plan.features.names
    compared = [at for at, name in enumerate(names) if name != _position(features)]
    for record, event in zip(log, drawn.events, strict=True):
        rows = asked.pop(event["id"], None)
        if rows is not None:
            items = [row.items[0] for row in rows]
            context, slot = event.get("context"), event.get("slot", "")
            told = engine.ask(event["user"], items, event["ts"], ordered=False, context=context, slot=slot).features
            found = np.array([np.frombuffer(row.features, dtype=np.float32) for row in rows])
            assert [row.labels for row in rows] == [[1], *[[0]] * (len(rows) - 1)]
            for at in compared:
                # To the last bit: what the learner learns must not depend on what else was evaluated with it.
                assert found[:, at].tobytes() == told[:, at].tobytes(), (names[at], found[:, at], told[:, at])
        engine.fold([record])
    assert not asked


def _position(features: Features) -> str:
    return next(f"f{at}" for at, (kind, _) in enumerate(features) if kind == "position")


@settings(deadline=None, max_examples=15, phases=UNSHRUNK)
@given(all_kinds(), seeds, sizes)
def test_examples_do_not_depend_on_how_the_log_was_cut(features: Features, seed: int, count: int) -> None:
    drawn = Drawn(seed, count)
    log = records(drawn.events)
    made = [
        fold_in_slices(_told(features, drawn, with_examples=True), log, random.Random(cut)) for cut in (seed, seed + 1)
    ]
    rows = [[(row.items, row.labels, row.features) for group in examples_of(one) for row in group] for one in made]
    assert rows[0] == rows[1]
