"""`train` and `models`: from examples in the log to a ranker that is served, promoted and rolled back."""

import asyncio
import subprocess
from collections.abc import Callable

import numpy as np
import pytest

from models.registry import Registry
from persona_stream.kafka.writer import BatchWriter, Record
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.messages import Example, encode
from persona_stream.vocabulary.topics import Topics
from tables.features.plan import feature_set

Call = Callable[..., "subprocess.CompletedProcess[str]"]

GROUPS, ROWS = 200, 8
FEATURES = feature_set(Settings())
_POPULARITY = FEATURES.index("item_purchases_total")


def make_example(group: int, *, popular: bool) -> Example:
    """Alternatives; what is chosen is the most popular, or follows from two other features together."""
    random = np.random.default_rng(group)
    features = random.gamma(1.0, 1.0, size=(ROWS, FEATURES.width)).astype(np.float32)
    wish = features[:, _POPULARITY] if popular else features[:, 0] * features[:, 1]
    labels = np.zeros(ROWS, dtype=np.int64)
    labels[np.argmax(wish)] = 1
    return Example(
        group=f"g{group:05}",
        user=f"u{group % 7}",
        ts_ms=3_600_000 * group,
        feature_hash=FEATURES.hash,
        items=[f"i{row}" for row in range(ROWS)],
        features=features.tobytes(),
        labels=labels.tolist(),
        origin="online",
        source_partition=0,
        source_offset=group,
    )


def log_examples(settings: Settings, *, popular: bool) -> None:
    async def write() -> None:
        writer = BatchWriter(settings, client_id="test")
        await writer.start()
        examples = [make_example(group, popular=popular) for group in range(GROUPS)]
        records = [Record(example.user.encode(), encode(example)) for example in examples]
        await writer.write_keyed(Topics(settings.namespace).examples, records)
        await writer.stop()

    asyncio.run(write())


def live(settings: Settings) -> str | None:
    return asyncio.run(Registry(settings).load()).live.get("ranker")


@pytest.fixture
def learnable(settings: Settings) -> Settings:
    log_examples(settings, popular=False)
    return settings


def test_a_ranker_that_beats_the_simple_rules_is_served(call: Call, learnable: Settings) -> None:
    trained = call("train", settings=learnable)
    assert trained.returncode == 0, trained.stderr
    assert "published model ranker v1" in trained.stdout
    assert "ranker v1 is live" in trained.stdout
    rows = dict(line.split("\t", 1) for line in trained.stdout.splitlines() if "\t" in line)
    ndcg = {name: float(cells.split("\t")[0]) for name, cells in rows.items() if name}
    assert ndcg["this ranker"] > max(ndcg["popularity"], ndcg["personal frequency"])
    assert live(learnable) == "v1"


def test_promote_and_rollback_change_what_is_served(call: Call, learnable: Settings) -> None:
    assert call("train", settings=learnable).returncode == 0
    second = call("train", "--seed", "2", "--no-promote", settings=learnable)
    assert "models promote v2" in second.stdout
    assert live(learnable) == "v1"
    assert call("models", "promote", "v2", settings=learnable).returncode == 0
    listed = call("models", "list", settings=learnable).stdout.splitlines()
    assert [line.split("\t")[:3] for line in listed[1:]] == [["ranker", "v1", ""], ["ranker", "v2", "live"]]
    assert all("NDCG@10 0." in line for line in listed[1:])
    back = call("models", "rollback", settings=learnable)
    assert "back at v1" in back.stdout
    assert live(learnable) == "v1"


def test_a_ranker_of_other_features_is_neither_promoted_nor_hidden(call: Call, learnable: Settings) -> None:
    assert call("train", "--no-promote", settings=learnable).returncode == 0
    today, old = FEATURES.hash, "0" * len(FEATURES.hash)

    async def plant() -> None:
        record = (await Registry(learnable).load()).version("ranker", "v1")
        record.version, record.onnx = "v0", record.onnx.replace(today.encode(), old.encode())
        writer = BatchWriter(learnable, client_id="test")
        await writer.start()
        await writer.write_keyed(Topics(learnable.namespace).models, [Record(b"ranker/v0", encode(record))])
        await writer.stop()

    asyncio.run(plant())
    refused = call("models", "promote", "v0", settings=learnable)
    assert refused.returncode == 1
    assert f"trained on features {old}, these are {today}" in " ".join(refused.stderr.split())
    assert live(learnable) is None
    assert "ranker\tv0" in call("models", "list", settings=learnable).stdout


def test_one_that_is_no_better_is_published_but_not_served(call: Call, settings: Settings) -> None:
    log_examples(settings, popular=True)  # nothing can be better than the rule
    trained = call("train", settings=settings)
    assert trained.returncode == 0, trained.stderr
    assert "not promoted" in trained.stdout
    assert live(settings) is None


def test_too_few_examples_are_a_clear_error(call: Call, settings: Settings) -> None:
    done = call("train", settings=settings)
    assert done.returncode == 1
    assert "too few groups" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_version_is_a_clear_error(call: Call, settings: Settings) -> None:
    done = call("models", "promote", "v9", settings=settings)
    assert done.returncode == 1
    assert "model ranker has no version v9" in done.stderr


def test_rolling_back_what_was_never_promoted_is_a_clear_error(call: Call, settings: Settings) -> None:
    done = call("models", "rollback", settings=settings)
    assert done.returncode == 1
    assert "no earlier live version" in done.stderr


def test_an_empty_registry_says_how_to_fill_it(call: Call, settings: Settings) -> None:
    done = call("models", "list", settings=settings)
    assert done.returncode == 0
    assert "persona-stream train" in done.stderr
