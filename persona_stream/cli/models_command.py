"""`persona-stream models`: the versions of rankers, and which one is served."""

import asyncio

import msgspec
from msgspec import Struct

from models.registry import Registry, RegistryState
from persona_stream.cli.cluster import reachable
from persona_stream.cli.console import err, out, print_table, quiet_libraries, utc
from persona_stream.cli.running import connected
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.messages import ModelRecord


class _Mean(Struct):
    mean: float


class _Measured(Struct):
    ndcg: _Mean
    hit_rate: _Mean


class _Report(Struct):
    """What is shown of `models.train.TrainingReport`, without importing all that training needs."""

    ranker: _Measured


def run_list(settings: Settings) -> int:
    """Print a row a version, newest last; `live` marks those served."""
    quiet_libraries()
    state = asyncio.run(_load(connected(settings)))
    rows = [_row(state, record) for name in sorted(state.versions) for record in _by_age(state, name)]
    if not rows:
        err.print("no model yet: `persona-stream train` makes one.")
        return 0
    print_table(["model", "version", "", "created", "size", "metrics"], rows, right=frozenset({"size"}))
    return 0


def run_promote(settings: Settings, name: str, version: str) -> int:
    """Serve `version` from now on. Raises ModelError where it must not be served."""
    quiet_libraries()
    record = asyncio.run(_promote(connected(settings), name, version))
    out.print(f"model {record.name} {record.version} is live; servers take it up at once.")
    return 0


def run_rollback(settings: Settings, name: str) -> int:
    """Serve the version before the live one again. Raises ModelError where there is none."""
    quiet_libraries()
    record = asyncio.run(_rollback(connected(settings), name))
    out.print(f"model {record.name} is back at {record.version}; servers take it up at once.")
    return 0


async def _load(settings: Settings) -> RegistryState:
    async with reachable(settings):
        return await Registry(settings).load()


async def _promote(settings: Settings, name: str, version: str) -> ModelRecord:
    async with reachable(settings):
        return await Registry(settings).promote(name, version)


async def _rollback(settings: Settings, name: str) -> ModelRecord:
    async with reachable(settings):
        return await Registry(settings).rollback(name)


def _by_age(state: RegistryState, name: str) -> list[ModelRecord]:
    return sorted(state.versions[name].values(), key=lambda record: (record.created_ms, record.version))


def _row(state: RegistryState, record: ModelRecord) -> list[str]:
    live = "live" if state.live.get(record.name) == record.version else ""
    return [
        record.name,
        record.version,
        live,
        utc(record.created_ms),
        f"{len(record.onnx):,} B",
        _metrics(record.metadata),
    ]


def _metrics(metadata: dict[str, str]) -> str:
    try:
        report = msgspec.json.decode(metadata.get("metrics", ""), type=_Report)
    except msgspec.MsgspecError:
        # Published by another program: that is no reason to hide the model.
        return ""
    return f"NDCG@10 {report.ranker.ndcg.mean:.3f}, HR@10 {report.ranker.hit_rate.mean:.3f}"
