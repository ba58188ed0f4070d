"""What a decision says of the state it was made on, read from the log as anybody would."""

from http_servers import Server, until
from support.cluster import read_all

from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.ids import made_ms
from persona_stream.vocabulary.messages import Decision, Positions, decode_decision, encode_json
from persona_stream.vocabulary.topics import Topics


async def test_a_decision_tells_its_request_and_how_far_each_table_was(server: Server, settings: Settings) -> None:
    body = {"user": "u1", "items": ["b", "a", "b"], "k": 1, "slot": "home", "context": {"segment": "new", "x": 1}}
    answer = await (await server.post("/v1/rank", body)).json()
    await (await server.get("/v1/recommend/u2?k=3")).read()
    topic = Topics(settings.namespace).decisions

    async def are_logged() -> bool:
        return len(await read_all(settings.kafka, topic)) == 2

    await until(are_logged)
    logged = {made.user: made for made in map(_decoded, await read_all(settings.kafka, topic))}
    ranked, found = logged["u1"], logged["u2"]
    assert (ranked.id, made_ms(ranked.id)) == (answer["decision_id"], ranked.ts_ms)
    assert (ranked.asked, ranked.ranked, ranked.items, ranked.k) == ("rank", ["b", "a"], ["b"], 1)
    assert (ranked.segment, ranked.withheld, ranked.user_applied) == ("new", [], -1)
    assert (found.asked, found.ranked, found.k, found.segment) == ("recommend", [], 3, None)
    empty = [-1] * settings.partitions
    assert ranked.state == Positions(users=empty, items=empty, catalogue=empty, profiles=empty)


def test_a_decision_of_before_these_fields_is_read() -> None:
    old = (
        b'{"id":"d","user":"u","ts_ms":1,"as_of_ms":2,"slot":"","policy":"history","model":"","fallback":"no-model",'
        b'"items":["a"],"scores":[0.5],"propensities":[1.0],"feature_hash":"h","features":"AAAA","candidates":1}'
    )
    decision = decode_decision(old)
    assert (decision.state, decision.ranked, decision.user_applied) == (None, [], -1)
    assert encode_json(decision) == old


def _decoded(record: object) -> Decision:
    return decode_decision(record.value)
