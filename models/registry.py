"""The registry of rankers: versions and promotions in one compacted topic, `models.v1`.

A version is a record with key `name/version` and the model's bytes; key `name/live` names the version to
serve and, in its metadata, those that were live before it. Everyone who serves folds the same records with
`fold_models`.
"""

import time
from collections.abc import Iterable, Mapping

import msgspec
from msgspec import Struct

from models.ranker import Ranker
from models.topic_reader import read_topic
from persona_stream.kafka.writer import BatchWriter, Record
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import ModelError
from persona_stream.vocabulary.messages import ModelRecord, decode_model, encode
from persona_stream.vocabulary.topics import MAX_EVENT_BYTES, Topics
from tables.features.plan import feature_set

LIVE = "live"
PREVIOUS = "previous"
"""In a live record's metadata: the versions that were live before, latest first, as a JSON list."""

_LARGEST_MODEL_BYTES = 64 * MAX_EVENT_BYTES
_PREVIOUS_KEPT = 20

Entry = tuple[bytes, bytes | None]
"""Key and value of a record of the topic; value None is a deletion."""


class RegistryState(Struct, frozen=True):
    """The models known, by name: every version, the live one, and those live before it, latest first."""

    versions: Mapping[str, Mapping[str, ModelRecord]] = {}
    live: Mapping[str, str] = {}
    previous: Mapping[str, tuple[str, ...]] = {}
    refused: int = 0
    """Records that were no model: a key or a value that can't be read."""

    def live_record(self, name: str) -> ModelRecord | None:
        """The record to serve as `name`: None where none was promoted, or where it was deleted since."""
        return self.versions.get(name, {}).get(self.live.get(name, ""))

    def version(self, name: str, version: str) -> ModelRecord:
        """One version. Raises ModelError, naming those that exist."""
        known = self.versions.get(name, {})
        if version not in known:
            listed = ", ".join(sorted(known)) or "none"
            raise ModelError(
                f"model {name} has no version {version}; it has: {listed}.",
                hint="`persona-stream models list`",
            )
        return known[version]

    def next_version(self, name: str) -> str:
        """A version not used yet: `v1`, `v2`, ... by the highest number so far."""
        numbers = (v.removeprefix("v") for v in self.versions.get(name, {}))
        return f"v{1 + max((int(n) for n in numbers if n.isdecimal()), default=0)}"


def fold_models(entries: Iterable[Entry], state: RegistryState | None = None) -> RegistryState:
    """Apply records in their order to `state` (by default: nothing known); returns the new state.

    No input is changed. A record that can't be read is counted, not raised: a server must go on serving what it has.
    """
    before = state or RegistryState()
    versions = {name: dict(known) for name, known in before.versions.items()}
    live, previous, refused = dict(before.live), dict(before.previous), before.refused
    for key, value in entries:
        try:
            name, version = _split_key(key)
            record = None if value is None else decode_model(value)
            earlier = () if record is None else _earlier(record)
        except (ModelError, msgspec.DecodeError, UnicodeDecodeError):
            refused += 1
            continue
        if version != LIVE:
            _set(versions.setdefault(name, {}), version, record)
        elif record is None:
            live.pop(name, None)
            previous.pop(name, None)
        else:
            live[name], previous[name] = record.version, earlier
    return RegistryState(versions, live, previous, refused)


class Registry:
    """The registry on Kafka. Each call reads the topic as it is, so it sees what every other process has
    done."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._topic = Topics(settings.namespace).models

    async def load(self) -> RegistryState:
        """All models. Raises ConfigError where the topic is missing."""
        state = RegistryState()
        async for records in read_topic(self._settings, self._topic, fetch_bytes=_LARGEST_MODEL_BYTES):
            state = fold_models([(record.key, record.value) for record in records], state)
        return state

    async def publish(self, record: ModelRecord) -> None:
        """Add a version, not yet served. Raises ModelError where it must not be served or its version is
        taken."""
        _check_part(record.name, "name")
        _check_part(record.version, "version")
        self._check(record)
        state = await self.load()
        if record.version in state.versions.get(record.name, {}):
            raise ModelError(
                f"model {record.name} has a version {record.version} already.",
                hint=f"Versions never change: use {state.next_version(record.name)}.",
            )
        await self._write(f"{record.name}/{record.version}", record)

    async def promote(self, name: str, version: str) -> ModelRecord:
        """Serve `version` as `name` from now on; returns its live record.

        It is loaded first: raises ModelError where it is unknown, of other features, or fails the parity
        gate.
        """
        state = await self.load()
        return await self._go_live(state, name, version, _history(state, name, version))

    async def rollback(self, name: str) -> ModelRecord:
        """Serve the version that was live before, again; returns its live record. Raises ModelError without
        one."""
        state = await self.load()
        earlier = state.previous.get(name, ())
        if not earlier:
            raise ModelError(
                f"model {name} has no earlier live version to go back to.", hint="Promote a version by name."
            )
        return await self._go_live(state, name, earlier[0], earlier[1:])

    async def _go_live(self, state: RegistryState, name: str, version: str, previous: tuple[str, ...]) -> ModelRecord:
        self._check(state.version(name, version))
        history = {PREVIOUS: msgspec.json.encode(previous).decode()}
        record = ModelRecord(name, version, b"", history, time.time_ns() // 1_000_000)
        await self._write(f"{name}/{LIVE}", record)
        return record

    def _check(self, record: ModelRecord) -> None:
        """Load it as a server would. Raises ModelError."""
        Ranker(record.onnx, feature_set(self._settings))

    async def _write(self, key: str, record: ModelRecord) -> None:
        writer = BatchWriter(self._settings, client_id="persona-registry")
        await writer.start()
        try:
            await writer.write_keyed(self._topic, [Record(key.encode(), encode(record))])
        finally:
            await writer.stop()


def _history(state: RegistryState, name: str, version: str) -> tuple[str, ...]:
    live, earlier = state.live.get(name), state.previous.get(name, ())
    if live is None or live == version:
        return earlier
    return (live, *earlier)[:_PREVIOUS_KEPT]


def _earlier(record: ModelRecord) -> tuple[str, ...]:
    return msgspec.json.decode(record.metadata.get(PREVIOUS, "[]"), type=tuple[str, ...])


def _split_key(key: bytes | None) -> tuple[str, str]:
    name, _, version = (key or b"").decode().rpartition("/")
    if not name or not version:
        raise ModelError(f"key {key!r} is not of the form name/version.")
    return name, version


def _check_part(text: str, what: str) -> None:
    if not text or "/" in text or text == LIVE:
        raise ModelError(f"a model's {what} can't be {text!r}.", hint=f"No '/', not empty, not {LIVE!r}.")


def _set(known: dict[str, ModelRecord], version: str, record: ModelRecord | None) -> None:
    if record is None:
        known.pop(version, None)
    else:
        known[version] = record
