"""`persona-stream backfill` and `train --examples` with a real Kafka: topics in, topics out, nothing else touched."""

import asyncio
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.cluster import end_offsets, until
from support.history import history, write_csv, write_jsonl
from support.live import MakeLive, prepared

from models.groups import Groups, join_examples
from models.registry import Registry
from models.train import read_examples
from persona_stream.example_file import read_example_file
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.messages import Example
from persona_stream.vocabulary.topics import Topics, topic_specs
from tables.features.plan import feature_set

Call = Callable[..., "subprocess.CompletedProcess[str]"]

FEATURES = feature_set(Settings())
EVENTS = history(200)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "log.jsonl", EVENTS)


def groups_of(examples: list[Example]) -> Groups:
    groups, dropped = join_examples(examples, FEATURES)
    assert (dropped.other_features, dropped.malformed) == (0, 0)
    return groups


def assert_equal(made: Groups, wanted: Groups) -> None:
    assert len(made)
    for name in Groups.__struct_fields__:
        assert np.array_equal(getattr(made, name), getattr(wanted, name), equal_nan=True), name


def written(settings: Settings) -> list[Example]:
    return asyncio.run(read_examples(settings))


def ends(settings: Settings) -> dict[str, int]:
    async def all_ends() -> dict[str, int]:
        names = [spec.name for spec in topic_specs(settings)]
        return {name: sum((await end_offsets(settings.kafka, name)).values()) for name in names}

    return asyncio.run(all_ends())


def test_repeating_a_backfill_adds_nothing_and_touches_nothing_else(call: Call, settings: Settings, log: Path) -> None:
    before = ends(settings)
    done = call("backfill", str(log), settings=settings)
    assert done.returncode == 0, done.stderr
    once = written(settings)
    assert {example.origin for example in once} == {"backfill"}, "the learner passes over these alone"
    assert {example.source_partition for example in once} == {-1}
    assert call("backfill", str(log), settings=settings).returncode == 0
    twice = written(settings)
    assert len(twice) == 2 * len(once)
    assert_equal(groups_of(twice), groups_of(once))
    examples = Topics(settings.namespace).examples
    assert [name for name, end in ends(settings).items() if end != before[name]] == [examples]


def test_a_topic_and_files_of_the_same_events_give_the_same_examples(
    call: Call, settings: Settings, log: Path, tmp_path: Path
) -> None:
    items = [{"id": f"i{at}", "ts": 1_600_000_000_000, "attributes": {"price": at / 2}} for at in range(30)]
    catalogue = write_jsonl(tmp_path / "items.jsonl", items)
    assert call("publish", str(log), settings=settings).returncode == 0
    assert call("publish", str(catalogue), "--topic", "items", settings=settings).returncode == 0
    of_topic, of_file = tmp_path / "topic.parquet", tmp_path / "file.parquet"
    done = call("backfill", "--out", str(of_topic), settings=settings)
    assert done.returncode == 0, done.stderr
    assert call("backfill", str(log), "--items", str(catalogue), "--out", str(of_file)).returncode == 0
    assert of_topic.read_bytes() == of_file.read_bytes()
    assert {example.origin for example in read_example_file(of_file, FEATURES)} == {"online", "impression", "backfill"}
    missing = call("backfill", "--topic", f"{settings.namespace}.other", "--out", str(of_topic), settings=settings)
    assert (missing.returncode, "does not exist" in missing.stderr) == (1, True)


def test_a_ranker_is_trained_on_a_file(call: Call, settings: Settings, log: Path, tmp_path: Path) -> None:
    out = tmp_path / "made.parquet"
    assert call("backfill", str(log), "--out", str(out)).returncode == 0
    trained = call("train", "--examples", str(out), "--origin", "impression", "--promote", settings=settings)
    assert trained.returncode == 0, trained.stderr
    assert "trained on" in trained.stdout
    registry = asyncio.run(Registry(settings).load())
    assert registry.live == {"ranker": "v1"}
    own = tmp_path / "own.toml"
    own.write_text('[features]\nprice = { kind = "number", attribute = "price" }\n')
    refused = call("train", "--examples", str(out), settings=settings, PERSONA_FEATURES=str(own))
    other = feature_set(Settings(features=own))
    assert refused.returncode == 1
    assert f"of features {FEATURES.hash}, these are {other.hash}" in " ".join(refused.stderr.split())
    both = call("train", "--examples", str(out), "--backfill", settings=settings)
    assert (both.returncode, "Give one" in both.stderr) == (1, True)
    none = call("train", "--examples", str(log), settings=settings)
    assert (none.returncode, "is no file of examples" in none.stderr) == (1, True)


def test_train_backfill_makes_the_sessions_of_the_topic(call: Call, settings: Settings, log: Path) -> None:
    assert call("publish", str(log), settings=settings).returncode == 0
    trained = call("train", "--backfill", "--no-promote", settings=settings)
    assert trained.returncode == 0, trained.stderr
    made = written(settings)
    assert made
    assert all("@" in example.group and example.origin == "backfill" for example in made)


def test_a_file_gives_what_a_live_stream_of_the_same_events_made(
    call: Call, make_live: MakeLive, log: Path, tmp_path: Path
) -> None:
    out = tmp_path / "made.parquet"
    of_file = write_csv(tmp_path / "log.csv", EVENTS)
    assert call("backfill", str(of_file), "--sessions", "0", "--out", str(out)).returncode == 0
    wanted = read_example_file(out, FEATURES)
    live = asyncio.run(prepared(make_live, partitions=1))
    # History: these were not appended when they happened.
    assert call("publish", str(log), settings=live.settings).returncode == 0

    async def streamed() -> list[Example]:
        live.start_worker()
        await live.until_applied("users", "items", "impressions")

        async def all_lists_there() -> bool:
            made = await read_examples(live.settings, origins={"impression"})
            return len(made) >= sum(example.origin == "impression" for example in wanted)

        await until(all_lists_there, within_s=60, what="an example of each list")
        return await read_examples(live.settings)

    made = asyncio.run(streamed())
    assert {example.source_partition for example in made} != {-1}
    assert_equal(groups_of(made), groups_of(wanted))
    lists = [[one for one in some if one.origin == "impression"] for some in (made, wanted)]
    named = [
        {one.group: (one.items, one.labels, one.features, one.positions, one.slot) for one in some} for some in lists
    ]
    assert named[0] == named[1]
    assert len(named[0]) == len(lists[0])
