"""The registry: the topic is the truth, what must not be served never goes live, and there is a way back."""

import uuid
from collections.abc import AsyncIterator

import msgspec
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaProducer

from models.registry import PREVIOUS, Registry, RegistryState, fold_models
from models.train import TrainedRanker
from persona_stream.kafka.admin import ensure_topics
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import ConfigError, ModelError
from persona_stream.vocabulary.messages import ModelRecord, encode
from persona_stream.vocabulary.topics import Topics
from tables.features.plan import feature_set


def _version(name: str, version: str) -> tuple[bytes, bytes]:
    return f"{name}/{version}".encode(), encode(ModelRecord(name, version, b"onnx", {}, 1))


def _live(name: str, version: str, *previous: str) -> tuple[bytes, bytes]:
    history = {PREVIOUS: msgspec.json.encode(previous).decode()}
    return f"{name}/live".encode(), encode(ModelRecord(name, version, b"", history, 2))


def test_the_last_promotion_is_live() -> None:
    state = fold_models([_version("r", "v1"), _version("r", "v2"), _live("r", "v1"), _live("r", "v2", "v1")])
    assert state.live == {"r": "v2"}
    assert state.previous == {"r": ("v1",)}
    record = state.live_record("r")
    assert record is not None
    assert record.version == "v2"
    assert record.onnx == b"onnx"


def test_any_cut_of_the_records_gives_the_same_state_and_changes_no_input() -> None:
    entries = [
        _version("r", "v1"),
        _live("r", "v1"),
        _version("s", "v1"),
        _version("r", "v2"),
        (b"s/v1", None),
    ]
    whole = fold_models(entries)
    for cut in range(len(entries) + 1):
        first = fold_models(entries[:cut])
        untouched = fold_models(entries[:cut])
        assert fold_models(entries[cut:], first) == whole
        assert first == untouched


def test_what_was_deleted_is_not_served() -> None:
    entries = [_version("r", "v1"), _live("r", "v1")]
    assert fold_models([*entries, (b"r/v1", None)]).live_record("r") is None
    assert fold_models([*entries, (b"r/live", None)]).live_record("r") is None
    assert fold_models([_live("r", "v9")]).live_record("r") is None
    assert RegistryState().live_record("r") is None


@pytest.mark.parametrize(
    "entry",
    [
        (b"", b""),
        (b"no-slash", encode(ModelRecord("r", "v1", b"", {}, 1))),
        (b"r/", None),
        (b"\xff/v1", b""),
        (b"r/v1", b"no msgpack"),
        (b"r/live", encode(ModelRecord("r", "v1", b"", {PREVIOUS: "[1"}, 1))),
    ],
)
def test_a_record_that_is_no_model_is_counted_and_changes_nothing(entry: tuple[bytes, bytes | None]) -> None:
    before = fold_models([_version("r", "v1"), _live("r", "v1")])
    after = fold_models([entry], before)
    assert after == msgspec.structs.replace(before, refused=1)


def test_versions_count_up_from_the_highest_number() -> None:
    state = fold_models([_version("r", version) for version in ("v2", "v10", "night-build")])
    assert state.next_version("r") == "v11"
    assert state.next_version("other") == "v1"


@pytest_asyncio.fixture
async def settings(kafka: str) -> AsyncIterator[Settings]:
    made = Settings.load({"kafka": kafka, "namespace": f"registry-{uuid.uuid4().hex[:8]}"}, env={})
    await ensure_topics(made)
    yield made


@pytest.mark.asyncio
async def test_publish_promote_and_two_steps_back(settings: Settings, trained: TrainedRanker) -> None:
    registry = Registry(settings)
    assert await registry.load() == RegistryState()
    for number in (1, 2, 3):
        version = (await registry.load()).next_version("ranker")
        assert version == f"v{number}"
        await registry.publish(trained.record("ranker", version, created_ms=number))
    assert (await registry.load()).live == {}

    for version in ("v1", "v2", "v2", "v3"):
        assert (await registry.promote("ranker", version)).version == version
    record = (await registry.load()).live_record("ranker")
    assert record is not None
    assert (record.version, record.onnx, record.created_ms) == ("v3", trained.onnx, 3)

    assert (await registry.rollback("ranker")).version == "v2"
    assert (await registry.rollback("ranker")).version == "v1"
    state = await registry.load()
    assert state.live == {"ranker": "v1"}
    with pytest.raises(ModelError, match="no earlier live version"):
        await registry.rollback("ranker")
    assert set(state.versions["ranker"]) == {"v1", "v2", "v3"}


@pytest.mark.asyncio
async def test_what_must_not_be_served_is_refused(settings: Settings, trained: TrainedRanker) -> None:
    registry = Registry(settings)
    record = trained.record("ranker", "v1", created_ms=1)
    await registry.publish(record)
    with pytest.raises(ModelError, match=r"has a version v1 already.* use v2"):
        await registry.publish(record)
    with pytest.raises(ModelError, match="can't be 'live'"):
        await registry.publish(trained.record("ranker", "live", created_ms=1))
    with pytest.raises(ModelError, match="can't be 'a/b'"):
        await registry.publish(trained.record("a/b", "v1", created_ms=1))
    with pytest.raises(ModelError, match="no ONNX model"):
        await registry.publish(ModelRecord("ranker", "v2", b"?", {}, 1))
    with pytest.raises(ModelError, match="has no version v7; it has: v1"):
        await registry.promote("ranker", "v7")


@pytest.mark.asyncio
async def test_a_model_of_other_features_in_the_topic_is_not_promoted(
    settings: Settings, trained: TrainedRanker
) -> None:
    today = feature_set(settings).hash
    stale = trained.onnx.replace(today.encode(), b"0" * len(today))
    key, value = b"ranker/v1", encode(ModelRecord("ranker", "v1", stale, {}, 1))
    producer = AIOKafkaProducer(**settings.kafka_client())
    await producer.start()
    try:
        await producer.send_and_wait(Topics(settings.namespace).models, value, key=key)
    finally:
        await producer.stop()
    registry = Registry(settings)
    with pytest.raises(ModelError, match=f"trained on features 0000000000000000, these are {today}"):
        await registry.promote("ranker", "v1")
    assert (await registry.load()).live == {}


@pytest.mark.asyncio
async def test_a_model_of_several_megabytes_goes_through(settings: Settings, trained: TrainedRanker) -> None:
    registry = Registry(settings)
    large = ModelRecord("ranker", "v1", trained.onnx, {"note": "x" * 5_000_000}, 1)
    await registry.publish(large)
    assert (await registry.load()).version("ranker", "v1") == large


@pytest.mark.asyncio
async def test_a_missing_topic_is_named(kafka: str) -> None:
    with pytest.raises(ConfigError, match=r"topic nowhere.models.v1 does not exist"):
        await Registry(Settings.load({"kafka": kafka, "namespace": "nowhere"}, env={})).load()
