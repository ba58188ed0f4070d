"""What each route answers on an empty system, and how requests that don't fit are refused."""

import re
from collections.abc import AsyncIterator

import msgspec
import pytest
import pytest_asyncio
from http_servers import Server, serving, settings_for
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate
from prometheus_client.parser import text_string_to_metric_families

from persona_stream.serving.event_body import MAX_VALUES
from persona_stream.serving.schemas import MAX_EVENTS
from persona_stream.serving.server import MAX_BODY_BYTES, build_app

# One server for all of these: none of them changes anything.
pytestmark = pytest.mark.asyncio(loop_scope="module")

FRESHNESS = ("X-Persona-State-Age-Ms", "X-Persona-Lag-Events", "X-Persona-Model", "X-Persona-Fallback", "Server-Timing")
RANK = {"user": "u1", "items": ["b", "a", "c"]}
DEEP = b'{"user": "u1", "items": ["a"], "context": {"a": ' + b"[" * 100_000


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def server(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    async with serving(settings_for(kafka, tmp_path_factory.mktemp("home"))) as running:
        await running.until_ready()
        yield running


async def test_of_an_unknown_user_the_given_order_stands_and_the_answer_says_why(server: Server) -> None:
    response = await server.post("/v1/rank", RANK)
    answer = await response.json()
    assert response.status == 200
    assert [(item["item"], item["rank"]) for item in answer["items"]] == [("b", 1), ("a", 2), ("c", 3)]
    assert answer["fallback"] == "unknown-user"
    assert response.headers["X-Persona-Fallback"] == "unknown-user"
    assert response.headers["X-Persona-Model"] == "none"
    assert re.fullmatch(r"rank;dur=\d+\.\d\d", response.headers["Server-Timing"])


async def test_k_bounds_the_answer(server: Server) -> None:
    answer = await (await server.post("/v1/rank", {**RANK, "k": 2})).json()
    assert [item["item"] for item in answer["items"]] == ["b", "a"]


async def test_lists_of_an_empty_system_are_empty_not_errors(server: Server) -> None:
    for path in ("/v1/recommend/u1?k=5&slot=home&segment=new", "/v1/similar/i1", "/v1/trending?window=1h&slot=home"):
        response = await server.get(path)
        assert (response.status, (await response.json())["items"]) == (200, []), path


@pytest.mark.parametrize(("path", "code"), [("/v1/users/a%2Fb", "unknown-user"), ("/v1/items/a%2Fb", "unknown-item")])
async def test_what_is_not_held_is_a_404_that_names_it(server: Server, path: str, code: str) -> None:
    response = await server.get(path)
    problem = await response.json()
    assert (response.status, problem["code"]) == (404, code)
    assert "'a/b'" in problem["detail"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/trending"),
        ("GET", "/v1/users/nobody"),
        ("GET", "/v1/none"),
        ("GET", "/v1/rank"),
        ("POST", "/v1/rank"),
    ],
)
async def test_every_answer_under_v1_tells_its_freshness_and_may_be_read_by_any_page(
    server: Server, method: str, path: str
) -> None:
    response = await server.ask(method, path)
    assert all(response.headers.get(name) for name in FRESHNESS)
    assert response.headers["Access-Control-Allow-Origin"] == "*"


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"user": "u1"}, "/items"),
        ({"user": "u1", "items": []}, "/items"),
        ({"user": "u1", "items": ["a", 7]}, "/items/1"),
        ({"user": "u1", "items": ["a"], "k": 0}, "/k"),
        ({"user": "u1", "items": ["a"], "colour": "red"}, "/colour"),
        (["a"], ""),
    ],
)
async def test_a_body_that_does_not_fit_is_pointed_at(server: Server, body: object, pointer: str) -> None:
    response = await server.post("/v1/rank", body)
    problem = await response.json(content_type="application/problem+json")
    assert (response.status, problem["status"], problem["code"]) == (400, 400, "bad-request")
    assert [(error["in"], error["pointer"]) for error in problem["errors"]] == [("body", pointer)]


@pytest.mark.parametrize("body", [b"", b"{", b"user=u1", b'{"user": "\xff", "items": ["a"]}', DEEP])
async def test_a_body_that_is_not_json_is_refused(server: Server, body: bytes) -> None:
    response = await server.post("/v1/rank", body)
    assert (response.status, (await response.json(content_type=None))["code"]) == (400, "bad-json")


@pytest.mark.parametrize("ndjson", [False, True])
@pytest.mark.parametrize("body", [b"", b"  \n ", b"user=u1&type=click", b"{", b"{\n}\n}"])
async def test_events_that_are_not_json_are_refused_whole(server: Server, body: bytes, ndjson: bool) -> None:
    content_type = "application/x-ndjson" if ndjson else "application/json"
    response = await server.post("/v1/events", body, headers={"Content-Type": content_type})
    assert (response.status, (await response.json(content_type=None))["code"]) == (400, "bad-json")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"[" + b",".join([b"{}"] * (MAX_EVENTS + 1)) + b"]", "too-many-events"),
        (b"{}\n" * (MAX_EVENTS + 1), "too-many-events"),
        (b"{}" + b"\n" * (3 * MAX_EVENTS) + b"{}", "too-many-events"),
        (b"[" + b"1," * (MAX_VALUES + 1) + b"1]", "too-large"),
    ],
)
async def test_too_many_events_are_refused_before_they_are_taken_apart(server: Server, body: bytes, code: str) -> None:
    response = await server.post("/v1/events", body)
    assert (response.status, (await response.json(content_type=None))["code"]) == (413, code)


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("k=0", "/k"),
        ("k=many", "/k"),
        ("k=1&k=2", "/k"),
        ("windw=1h", "/windw"),
        ("window=2h", "/window"),
        ("max_lag_ms=-1", "/max_lag_ms"),
    ],
)
async def test_a_query_that_does_not_fit_is_pointed_at(server: Server, query: str, pointer: str) -> None:
    response = await server.get(f"/v1/trending?{query}")
    problem = await response.json(content_type="application/problem+json")
    assert (response.status, problem["code"]) == (400, "bad-request")
    assert [(error["in"], error["pointer"]) for error in problem["errors"]] == [("query", pointer)]


@pytest.mark.parametrize("path", ["/v1/nothing", "/nothing", "/v1/users/"])
async def test_an_unknown_address_is_a_problem(server: Server, path: str) -> None:
    response = await server.get(path)
    problem = await response.json(content_type="application/problem+json")
    assert (response.status, problem["code"]) == (404, "not-found")


async def test_a_wrong_method_is_told_the_right_ones(server: Server) -> None:
    response = await server.get("/v1/rank")
    assert (response.status, (await response.json(content_type=None))["code"]) == (405, "method-not-allowed")
    assert response.headers["Allow"] == "POST"


async def test_a_body_over_the_limit_is_too_large(server: Server) -> None:
    response = await server.post("/v1/rank", b" " * (MAX_BODY_BYTES + 1))
    assert (response.status, (await response.json(content_type=None))["code"]) == (413, "too-large")


async def test_a_preflight_allows_what_the_route_takes(server: Server) -> None:
    asked = {
        "Origin": "https://shop.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type,x-trace",
    }
    response = await server.ask("OPTIONS", "/v1/rank", headers=asked)
    assert response.status == 204
    assert response.headers["Access-Control-Allow-Methods"] == "POST"
    assert response.headers["Access-Control-Allow-Headers"] == "content-type,x-trace"
    assert (await server.ask("OPTIONS", "/v1/nothing", headers=asked)).status == 404


async def test_state_that_breaks_the_engine_costs_the_order_not_the_answer(server: Server) -> None:
    server.state.replica.users["broken"] = b"\xc1 not what a codec wrote"
    ranked = await server.post("/v1/rank", {**RANK, "user": "broken"})
    answer = await ranked.json()
    assert (ranked.status, answer["fallback"], answer["policy"]) == (200, "error", "given-order")
    assert [item["item"] for item in answer["items"]] == RANK["items"]
    assert (await (await server.get("/v1/recommend/broken")).json())["fallback"] == "error"
    asked = await server.get("/v1/users/broken")
    problem = await asked.json(content_type="application/problem+json")
    assert (asked.status, problem["code"], problem.get("detail")) == (500, "internal", None)


async def test_probes_tell_what_is_there(server: Server) -> None:
    assert (await (await server.get("/livez")).text(), await (await server.get("/readyz")).text()) == ("ok\n", "ok\n")
    held = await (await server.get("/readyz?verbose")).json()
    assert held["ready"]
    assert held["kafka"] == "connected"
    assert set(held["tables"]) == {"users", "items", "catalogue", "profiles", "learner"}
    assert {"missing", "lag_events", "state_age_ms", "model", "decisions_dropped"} <= set(held)
    assert held["polled_ms_ago"] is None or 0 <= held["polled_ms_ago"] < 60_000


async def test_metrics_are_what_prometheus_reads(server: Server) -> None:
    await server.post("/v1/rank", RANK)
    text = await (await server.get("/metrics")).text()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert {sample.labels["table"] for sample in families["persona_replica_lag_events"].samples} >= {"users", "items"}
    counts = {
        sample.labels["route"]: sample.value
        for sample in families["persona_http_request_duration_seconds"].samples
        if sample.name.endswith("_count")
    }
    assert counts["/v1/rank"] >= 1
    reasons = {sample.labels["reason"] for sample in families["persona_fallbacks"].samples}
    assert "unknown-user" in reasons
    assert {"persona_state_age_seconds", "persona_decisions_dropped", "process_resident_memory_bytes"} <= set(families)


async def test_the_page_loads_nothing_from_elsewhere(server: Server) -> None:
    response = await server.get("/")
    page = await response.text()
    assert response.content_type == "text/html"
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert not re.findall(r"""(?:src|href)=["'](?!/)""", page)
    assert "/readyz?verbose" in page


async def test_the_description_is_valid_and_covers_exactly_the_routes(server: Server) -> None:
    description = await (await server.get("/openapi.json")).json()
    validate(description)
    described = {(method.upper(), path) for path, methods in description["paths"].items() for method in methods}
    routed = {
        (route.method, route.resource.canonical)
        for route in build_app(server.state.settings).router.routes()
        if route.method != "HEAD" and route.resource is not None
    }
    assert described == routed


@pytest.mark.parametrize(
    ("method", "path", "body", "template"),
    [
        ("POST", "/v1/rank", {**RANK, "explain": True}, "/v1/rank"),
        ("POST", "/v1/rank", {"user": "u1", "items": []}, "/v1/rank"),
        ("GET", "/v1/recommend/u1", None, "/v1/recommend/{user}"),
        ("GET", "/v1/trending", None, "/v1/trending"),
        ("GET", "/v1/users/nobody", None, "/v1/users/{user}"),
        ("GET", "/readyz?verbose", None, "/readyz"),
    ],
)
async def test_answers_are_as_described(server: Server, method: str, path: str, body: object, template: str) -> None:
    description = await (await server.get("/openapi.json")).json()
    response = await server.ask(method, path, data=None if body is None else msgspec.json.encode(body))
    described = description["paths"][template][method.lower()]["responses"][str(response.status)]
    schema = described["content"][response.content_type]["schema"]
    validator = OAS31Validator({**schema, "components": description["components"]})
    assert list(validator.iter_errors(msgspec.json.decode(await response.read()))) == []
    assert set(described.get("headers", {})) - {"Retry-After"} <= set(response.headers)
