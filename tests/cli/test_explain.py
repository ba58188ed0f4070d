"""`explain` on a real system: what an answer was made of, whatever has happened since; and what differs, if it does."""

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
import msgspec
import numpy as np
import onnx
import orjson
import pytest
from msgspec import Struct
from support.cluster import read_all, until, write_keyed
from support.live import Live, live, prepared
from support.logs import T0_MS, event
from support.questions import until_holds_all, until_ready

from models.ranker import HASH_PROPERTY, NAMES_PROPERTY
from persona_stream.cli.probe import any_free_port
from persona_stream.kafka.generations import Built, Change, write_change
from persona_stream.kafka.writer import BatchWriter, Record
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.ids import new_id
from persona_stream.vocabulary.messages import Decision, ModelRecord, decode_decision, encode, encode_json
from tables.features.plan import feature_set

Call = Callable[..., Any]

FEATURES = feature_set(Settings())
SAME = "today's code gives the same answer."
LATER_EVENTS = 40


class Made(Struct):
    """A system at rest, and the decisions it has made, by what they are about."""

    namespace: Live
    decisions: dict[str, Decision]


@pytest.fixture(scope="module")
def made(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    with live(kafka, tmp_path_factory.mktemp("explain")) as make:
        namespace = make()
        yield asyncio.run(_made(namespace))


async def _made(namespace: Live) -> Made:
    await prepared(lambda: namespace)
    port = any_free_port()
    namespace.start_worker()
    namespace.start_server(port)
    await until_ready(namespace, port)
    ids: dict[str, str] = {}
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        ids["nothing"] = await _recommend(session, "nobody")
        ids["empty"] = await _rank(session, "nobody", ["a", "b"])
        await _publish(namespace, _shopping())
        await _tell_items(namespace, lamp="hidden", rug="active")
        await until_holds_all(namespace, port)
        ids["history"] = await _rank(session, "u1", ["mug", "lamp", "tea", "pot"], slot="home")
        ids["found"] = await _recommend(session, "u1?k=3")
        ids["stranger"] = await _rank(session, "nobody", ["tea", "mug"], context={"segment": "new"})
        # From here on, all that could change the answers happens.
        await _publish(namespace, [_event(f"l{n}", "u1", "pot", 200 + n) for n in range(LATER_EVENTS)])
        await _publish(namespace, [_event("l", "nobody", "mug", 300)])
        await _tell_items(namespace, lamp="active", tea="hidden", new="active")
        await until_holds_all(namespace, port)
        ids["later"] = await _rank(session, "u1", ["mug", "lamp", "tea", "pot"])
    await until(lambda: _are_logged(namespace, len(ids)), within_s=30, what="the decisions are logged")
    by_id = {decision.id: decision for decision in await _decisions(namespace)}
    return Made(namespace, {name: by_id[decision_id] for name, decision_id in ids.items()})


def _shopping() -> list[dict[str, Any]]:
    visits = [("u1", "mug"), ("u1", "tea"), ("u2", "tea"), ("u2", "pot"), ("u3", "tea"), ("u3", "rug"), ("u1", "mug")]
    return [_event(f"e{n}", user, item, n) for n, (user, item) in enumerate(visits)]


def _event(event_id: str, user: str, item: str, minute: int) -> dict[str, Any]:
    return event(event_id, "click", user, T0_MS + 60_000 * minute, item=item, context={"segment": "new"})


async def _publish(namespace: Live, events: list[dict[str, Any]]) -> None:
    records = [Record(one["user"].encode(), orjson.dumps(one)) for one in events]
    await write_keyed(namespace.settings, namespace.topics.events, records)
    await namespace.until_applied("users", "items", "learner")


async def _tell_items(namespace: Live, **status: str) -> None:
    held = len(await read_all(namespace.settings.kafka, namespace.topics.items))
    records = [
        Record(item.encode(), orjson.dumps({"id": item, "ts": held + 1, "attributes": {}, "status": told}))
        for item, told in status.items()
    ]
    await write_keyed(namespace.settings, namespace.topics.items, records)
    await namespace.until_applied("catalogue")


async def _rank(session: aiohttp.ClientSession, user: str, items: list[str], **fields: Any) -> str:
    async with session.post("/v1/rank", json={"user": user, "items": items, **fields}) as answer:
        return str((await answer.json())["decision_id"])


async def _recommend(session: aiohttp.ClientSession, question: str) -> str:
    async with session.get(f"/v1/recommend/{question}") as answer:
        return str((await answer.json())["decision_id"])


async def _decisions(namespace: Live) -> list[Decision]:
    records = await read_all(namespace.settings.kafka, namespace.topics.decisions)
    return [decode_decision(record.value) for record in records]


async def _are_logged(namespace: Live, count: int) -> bool:
    return len(await _decisions(namespace)) >= count


@pytest.mark.parametrize(
    ("name", "policy", "fallback"),
    [
        ("nothing", "given-order", "unknown-user"),
        ("empty", "given-order", "unknown-user"),
        ("history", "history", "no-model"),
        ("found", "history", "no-model"),
        ("stranger", "trending", "unknown-user"),
        ("later", "history", "no-model"),
    ],
)
def test_an_answer_is_the_same_again_whatever_came_later(
    made: Made, call: Call, name: str, policy: str, fallback: str
) -> None:
    decision = made.decisions[name]
    assert (decision.policy, decision.fallback) == (policy, fallback)
    done = call("explain", decision.id, settings=made.namespace.settings)
    assert done.stdout.splitlines()[-1] == SAME, done.stdout
    assert done.returncode == 0
    assert f"fallback {fallback}" in done.stdout
    assert "note" not in done.stdout


def test_the_user_is_shown_as_of_then(made: Made, call: Call) -> None:
    then = _json(call, made, made.decisions["history"])
    later = _json(call, made, made.decisions["later"])
    assert [visit["item"] for visit in then["user"]["history"]] == ["mug", "tea", "mug"]
    assert len(later["user"]["history"]) == 3 + LATER_EVENTS
    assert _json(call, made, made.decisions["stranger"])["user"] is None


def test_what_the_catalogue_withheld_then_is_named(made: Made, call: Call) -> None:
    rules = _json(call, made, made.decisions["history"])["rules"]
    assert {"rule": "withheld", "detail": "hidden in the catalogue", "item": "lamp"} in rules
    assert (
        "withheld: lamp, hidden in the catalogue" in call("explain", made.decisions["history"].id, **_on(made)).stdout
    )
    later = _json(call, made, made.decisions["later"])["rules"]
    assert [rule["item"] for rule in later if rule["rule"] == "withheld"] == ["tea"]


def test_why_an_item_was_found_and_what_its_score_is_made_of(made: Made, call: Call) -> None:
    items = {item["item"]: item for item in _json(call, made, made.decisions["found"])["items"]}
    assert items["mug"]["origin"] == "the user's own"
    history = _json(call, made, made.decisions["history"])["items"]
    for item in history:
        assert sum(part["adds"] for part in item["contributions"]) == pytest.approx(item["score"], abs=1e-5)
        assert list(item["features"]) == list(FEATURES.names)
        assert item["features_today"] == {}


def test_json_is_stable_and_a_user_narrows_the_search(made: Made, call: Call) -> None:
    decision = made.decisions["history"]
    first = call("explain", decision.id, "--json", **_on(made)).stdout
    assert json.loads(first)["same"] is True
    assert call("explain", decision.id, "--json", "--user", "u1", **_on(made)).stdout == first


def test_an_unknown_id_and_another_user_are_told(made: Made, call: Call) -> None:
    for arguments in ([new_id(T0_MS)], ["d5a4af6a5e774ec2909fbe541f830d59"], ["x"]):
        done = call("explain", *arguments, **_on(made))
        assert (done.returncode, done.stdout) == (1, "")
        assert f"no decision {arguments[0]}" in done.stderr
        assert "Is --namespace right?" in done.stderr


def test_a_planted_feature_is_named(made: Made, call: Call) -> None:
    features = np.frombuffer(made.decisions["history"].features, dtype=np.float32).copy()
    features[FEATURES.index("user_events_7d")] += 0.5
    planted = _plant(made, features=features.tobytes())
    done = call("explain", planted.id, **_on(made))
    assert done.returncode == 1
    assert "What differs: features." in done.stdout
    assert f"{planted.items[0]}: user_events_7d was" in done.stdout
    (difference,) = _json(call, made, planted)["differences"]
    assert (difference["feature"], difference["item"]) == ("user_events_7d", planted.items[0])
    assert difference["logged"] == pytest.approx(difference["today"] + 0.5)


def test_a_planted_score_and_order_are_named(made: Made, call: Call) -> None:
    decision = made.decisions["history"]
    scores = [decision.scores[0] + 1, *decision.scores[1:]]
    assert _steps(call, made, _plant(made, scores=scores)) == ["scores"]
    width = 4 * FEATURES.width
    swapped = _plant(
        made,
        items=[decision.items[1], decision.items[0], *decision.items[2:]],
        scores=[decision.scores[1], decision.scores[0], *decision.scores[2:]],
        features=decision.features[width : 2 * width] + decision.features[:width] + decision.features[2 * width :],
    )
    assert _steps(call, made, swapped) == ["order"]


def test_other_differences_are_named_by_their_step(made: Made, call: Call) -> None:
    assert _steps(call, made, _plant(made, withheld=["lamp", "rug"])) == ["candidates"]
    assert "definition" in _steps(call, made, _plant(made, feature_hash="another"))
    assert _steps(call, made, _plant(made, model="online", fallback=None)) == ["policy"]
    assert "state" in _steps(call, made, _plant(made, user_applied=made.decisions["history"].user_applied + 100))


def test_what_came_of_the_moment_is_taken_as_it_was(made: Made, call: Call) -> None:
    for fallback in ("deadline", "model-error"):
        assert _steps(call, made, _plant(made, fallback=fallback)) == []


def test_what_is_gone_is_told(made: Made, call: Call) -> None:
    # Of `new` the topic has only what came after the decision: it may have been compacted.
    explained = _json(call, made, _plant(made, withheld=["lamp", "new"]))
    assert explained["notes"] == [
        "the catalogue has only a newer version of new: whether it was withheld can't be told"
    ]
    assert explained["same"]
    explained = _json(call, made, _plant(made, policy="ranker", model="ranker/v9", fallback=None))
    assert explained["notes"] == ["the ranker of then is gone: model ranker has no version v9; it has: none."]
    assert {difference["step"] for difference in explained["differences"]} == {"policy"}


def test_a_generation_that_was_folded_otherwise_is_told(made: Made, call: Call) -> None:
    built = Built(number=2, at_ms=1, tables=["users"], events=1, keys=1, lateness_ms=7_200_000)
    asyncio.run(_note_generation(made.namespace, Change(at_ms=1, why="built", live={}, built=built)))
    state = made.decisions["history"].state
    assert state is not None
    planted = _plant(made, state=msgspec.structs.replace(state, generations={"users": 2, "items": 3}))
    explained = _json(call, made, planted)
    assert explained["notes"] == [
        "users was in generation 2, folded with a lateness of 7200000 ms: the late events in it are not folded here"
    ]


def test_features_defined_otherwise_are_compared_by_the_names_that_their_ranker_has(made: Made, call: Call) -> None:
    names = ("once", *FEATURES.names[1:])
    asyncio.run(_publish_ranker_of(made.namespace, "v7", "old", names))
    columns = np.frombuffer(made.decisions["history"].features, dtype=np.float32).copy().reshape(-1, len(names))
    columns[0, :2] += 1
    planted = _plant(made, feature_hash="old", model="ranker/v7", features=columns.tobytes())
    differences = _json(call, made, planted)["differences"]
    assert [one["step"] for one in differences] == ["definition", "policy", "features"]
    assert differences[-1]["feature"] == FEATURES.names[1]


def test_a_decision_that_does_not_tell_its_state_is_explained_by_its_time(made: Made, call: Call) -> None:
    young = {"asked": "", "k": 0, "ranked": [], "withheld": [], "segment": None, "user_applied": -1, "learner": []}
    old = _plant(made, "history", state=None, **young)
    done = call("explain", old.id, **_on(made))
    assert "note      the decision is older than the fields that tell its state" in done.stdout
    assert done.stdout.splitlines()[-1] == SAME, done.stdout


def _plant(made: Made, name: str = "history", **changed: Any) -> Decision:
    """Log a copy of a decision, with something changed."""
    original = made.decisions[name]
    planted = msgspec.structs.replace(original, id=new_id(original.ts_ms), **changed)
    record = Record(planted.user.encode(), encode_json(planted))
    asyncio.run(write_keyed(made.namespace.settings, made.namespace.topics.decisions, [record]))
    return planted


async def _note_generation(namespace: Live, change: Change) -> None:
    writer = BatchWriter(namespace.settings, client_id="test")
    await writer.start()
    try:
        await write_change(writer, namespace.settings, change)
    finally:
        await writer.stop()


async def _publish_ranker_of(namespace: Live, version: str, feature_hash: str, names: tuple[str, ...]) -> None:
    """A ranker of other features, as one of an older version would be: `publish` would refuse it."""
    shape = [None, len(names)]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["features"], ["scores"])],
        "ranker",
        [onnx.helper.make_tensor_value_info("features", onnx.TensorProto.FLOAT, shape)],
        [onnx.helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, shape)],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.helper.set_model_props(
        model, {HASH_PROPERTY: feature_hash, NAMES_PROPERTY: msgspec.json.encode(names).decode()}
    )
    record = ModelRecord("ranker", version, model.SerializeToString(), {}, 0)
    await write_keyed(
        namespace.settings, namespace.topics.models, [Record(f"ranker/{version}".encode(), encode(record))]
    )


def _on(made: Made) -> dict[str, Any]:
    return {"settings": made.namespace.settings}


def _json(call: Call, made: Made, decision: Decision) -> dict[str, Any]:
    explained: dict[str, Any] = json.loads(call("explain", decision.id, "--json", **_on(made)).stdout)
    return explained


def _steps(call: Call, made: Made, decision: Decision) -> list[str]:
    differences = _json(call, made, decision)["differences"]
    return list(dict.fromkeys(difference["step"] for difference in differences))
