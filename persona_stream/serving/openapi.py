"""The OpenAPI 3.1 description, generated from the routes and the very types that they decode and encode."""

import importlib.metadata
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

import msgspec

from persona_stream.serving.endpoint import Route
from persona_stream.serving.problem import CONTENT_TYPE, PROBLEMS
from persona_stream.serving.queries import Query
from persona_stream.serving.routes_ops import OPS, OpsRoute
from persona_stream.serving.schemas import MAX_EVENTS, Problem
from persona_stream.vocabulary.events import Event

Json = dict[str, Any]

_REF = "#/components/schemas/{name}"
_JSON = "application/json"
_FRESHNESS_HEADERS = {
    "X-Persona-State-Age-Ms": ("integer", "How old the state is that the answer is from, in milliseconds."),
    "X-Persona-Lag-Events": ("integer", "How many events that Kafka has are not in that state yet."),
    "X-Persona-Model": ("string", "`name/version` of the model that scored, or `none`."),
    "X-Persona-Fallback": ("string", "Why the answer is plainer than it could be, or `none`."),
    "Server-Timing": ("string", "Milliseconds in the server, e.g. `rank;dur=1.2`."),
}
_PATH_PARAMETERS = {
    "user": "The user's id, percent-encoded.",
    "item": "The item's id, percent-encoded.",
    "table": "A table, such as `users`.",
    "partition": "A partition's number, or `all` where partitions are not told apart.",
}


def describe(routes: Iterable[Route]) -> Json:
    """The whole description."""
    routes = list(routes)
    kinds: list[Any] = [Problem, Event, *_types(routes), *(route.answer for route in OPS if route.answer)]
    queries = {route.query for route in routes if route.query is not None}
    # One call for all: it refuses two types of one name.
    _, schemas = msgspec.json.schema_components([*kinds, *queries], ref_template=_REF)
    parameters = {query: _query_parameters(schemas.pop(query.__name__)) for query in queries}
    paths: Json = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, parameters)
    for ops in OPS:
        paths.setdefault(ops.path, {})["get"] = _ops_operation(ops)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "persona-stream",
            "version": importlib.metadata.version("persona-stream"),
            "description": "Publish what users do, ask what each should see now.",
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"schemas": schemas, "headers": _headers()},
    }


def _types(routes: list[Route]) -> list[type]:
    found = [kind for route in routes for kind in (route.body, route.answer) if kind is not None]
    return list(dict.fromkeys(found))


def _operation(route: Route, parameters: dict[type[Query], list[Json]]) -> Json:
    operation: Json = {
        "operationId": route.name,
        "summary": route.summary,
        "responses": {
            str(route.answer_status): _answer("The answer.", _JSON, _ref(route.answer)),
            **_problem_answers(route.problems),
        },
    }
    if found := _path_parameters(route.path) + (parameters[route.query] if route.query else []):
        operation["parameters"] = found
    if route.body is not None:
        operation["requestBody"] = {"required": True, "content": _body_content(route.body)}
    return operation


def _body_content(body: type) -> Json:
    if body is not Event:
        return {_JSON: {"schema": _ref(body)}}
    several = {"type": "array", "items": _ref(Event), "maxItems": MAX_EVENTS}
    one_or_several = {"schema": {"oneOf": [_ref(Event), several]}}
    lines = {"schema": {"type": "string", "description": f"An event a line, at most {MAX_EVENTS}."}}
    return {_JSON: one_or_several, "text/plain": one_or_several, "application/x-ndjson": lines}


def _problem_answers(codes: Iterable[str]) -> Json:
    by_status: dict[int, list[str]] = {}
    for code in (*codes, "internal"):
        status, title = PROBLEMS[code]
        by_status.setdefault(status, []).append(f"`{code}`: {title}.")
    answers: Json = {}
    for status, titles in sorted(by_status.items()):
        answers[str(status)] = answer = _answer(" ".join(titles), CONTENT_TYPE, _ref(Problem))
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            answer["headers"]["Retry-After"] = {"$ref": "#/components/headers/Retry-After"}
    return answers


def _answer(description: str, content_type: str, schema: Json) -> Json:
    headers = {name: {"$ref": f"#/components/headers/{name}"} for name in _FRESHNESS_HEADERS}
    return {"description": description, "headers": headers, "content": {content_type: {"schema": schema}}}


def _ops_operation(route: OpsRoute) -> Json:
    schema = _ref(route.answer) if route.answer else {"type": route.schema_type}
    responses = {
        str(status): {"description": text, "content": {route.content_type: {"schema": schema}}}
        for status, text in route.answers
    }
    for status, text in route.refusals.items():
        responses[str(status)] = {"description": text, "content": {"text/plain": {"schema": {"type": "string"}}}}
    operation: Json = {"operationId": route.name, "summary": route.summary, "responses": responses}
    query = [
        {"name": name, "in": "query", "description": text, "schema": {"type": "string"}}
        for name, text in route.query.items()
    ]
    if found := _path_parameters(route.path) + query:
        operation["parameters"] = found
    return operation


def _path_parameters(path: str) -> list[Json]:
    return [_path_parameter(name) for name in _PATH_PARAMETERS if f"{{{name}}}" in path]


def _query_parameters(schema: Json) -> list[Json]:
    required = schema.get("required", ())
    return [
        {"name": name, "in": "query", "required": name in required, "schema": kind}
        for name, kind in schema["properties"].items()
    ]


def _path_parameter(name: str) -> Json:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": _PATH_PARAMETERS[name],
        "schema": {"type": "string", "minLength": 1},
    }


def _headers() -> Json:
    described = {**_FRESHNESS_HEADERS, "Retry-After": ("integer", "Seconds after which to ask again.")}
    return {name: {"description": text, "schema": {"type": kind}} for name, (kind, text) in described.items()}


def _ref(kind: type) -> Json:
    return {"$ref": _REF.format(name=kind.__name__)}
