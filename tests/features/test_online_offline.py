"""Online is offline on random logs: the examples that the stream makes are what the engine, asked just before, says."""

import random
from itertools import groupby

import numpy as np
from declared import Features, all_kinds
from drawn import Drawn, fold_in_slices, records, seeds, sizes, system_of
from hypothesis import Phase, given, settings
from msgspec import Struct

from persona_stream.in_process import InProcess
from persona_stream.kafka.writer import Record
from persona_stream.vocabulary.messages import FROM_SHOWN, decode_example

# Features of every kind at once take minutes to shrink; the assertion names the one that is wrong.
UNSHRUNK = (Phase.explicit, Phase.reuse, Phase.generate)


class Online(Struct):
    """What the stream made of one event: of a list shown, or of an outcome that answers none that is known."""

    items: list[str]
    labels: list[int]
    features: np.ndarray
    is_list: bool


def examples_of(made: list[Record]) -> dict[str, Online]:
    """Examples as the stream made them, by event: whole lists, and the rows of one outcome, the chosen item's first."""
    examples = [decode_example(record.value) for record in made]
    found: dict[str, Online] = {}
    for _, group in groupby(examples, key=lambda one: (one.user, one.group, one.origin)):
        rows = list(group)
        is_list = rows[0].origin == "impression"
        if not is_list and rows[0].source_partition >= FROM_SHOWN:
            # What was chosen from a list comes again with the list.
            continue
        assert rows[0].group not in found
        features = np.frombuffer(b"".join(row.features for row in rows), dtype=np.float32)
        items = [item for row in rows for item in row.items]
        labels = [label for row in rows for label in row.labels]
        found[rows[0].group] = Online(items, labels, features.reshape(len(items), -1), is_list)
    return found


def _told(features: Features, drawn: Drawn, *, with_examples: bool) -> InProcess:
    system = system_of(features, with_examples=with_examples)
    drawn.tell_what_is_known(system)
    return system


@settings(deadline=None, max_examples=30, phases=UNSHRUNK)
@given(all_kinds(), seeds, sizes)
def test_the_stream_says_what_the_engine_says_just_before(features: Features, seed: int, count: int) -> None:
    drawn = Drawn(seed, count)
    log = records(drawn.events)
    asked = examples_of(fold_in_slices(_told(features, drawn, with_examples=True), log, drawn.rng))

    engine = _told(features, drawn, with_examples=False)
    names = engine.engine.plan.features.names
    for record, event in zip(log, drawn.events, strict=True):
        online = asked.pop(event["id"], None)
        if online is not None:
            context, slot = event.get("context"), event.get("slot", "")
            told = engine.ask(
                event["user"], online.items, event["ts"], ordered=online.is_list, context=context, slot=slot
            ).features
            assert online.is_list or (online.labels[0] > 0 and not any(online.labels[1:]))
            for at, name in enumerate(names):
                # To the last bit: what the learner learns must not depend on what else was evaluated with it.
                found = online.features[:, at]
                assert found.tobytes() == told[:, at].tobytes(), (name, found, told[:, at])
        engine.fold([record])
    assert not asked


@settings(deadline=None, max_examples=15, phases=UNSHRUNK)
@given(all_kinds(), seeds, sizes)
def test_examples_do_not_depend_on_how_the_log_was_cut(features: Features, seed: int, count: int) -> None:
    drawn = Drawn(seed, count)
    log = records(drawn.events)
    made = [
        fold_in_slices(_told(features, drawn, with_examples=True), log, random.Random(cut)) for cut in (seed, seed + 1)
    ]
    rows = [
        {name: (one.items, one.labels, one.features.tobytes()) for name, one in examples_of(examples).items()}
        for examples in made
    ]
    assert rows[0] == rows[1]
