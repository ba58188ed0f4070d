"""The demo's last step: ask as a frontend would, click as a user would, and ask again."""

import asyncio
import time
import uuid
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from http import HTTPStatus
from typing import Any

import aiohttp

from persona_stream.cli.console import out, print_table
from persona_stream.vocabulary.errors import PersonaError

SHOWN = 8
WAIT_S = 20.0
POLL_S = 0.002

Titles = Mapping[str, str]


class DemoError(PersonaError):
    """The system did not do what the demo says it does."""

    code = "demo"


async def show_answers(session: aiohttp.ClientSession, user: str, model: str, titles: Titles) -> None:
    """Recommend, click, rank again. Raises DemoError where a step does not do what it should."""
    recommended = await _until_served_by(session, user, model)
    shown = recommended["items"]
    out.print(f"  GET /v1/recommend/{user}?k={SHOWN}  (model {recommended['model']}, as of {recommended['as_of']})")
    _print_ranked(shown, titles, {})
    before = await _rank(session, user, [ranked["item"] for ranked in shown])
    ranks = {ranked["item"]: ranked["rank"] for ranked in before["items"]}
    clicked = before["items"][-1]["item"]
    out.print(f"\n  POST /v1/events: {user} clicks on the last one, {titles.get(clicked, clicked)}")
    await _click(session, user, clicked, before["as_of"])
    started_s = time.perf_counter()
    after = await _until_changed(session, user, before)
    reaction_ms = 1000 * (time.perf_counter() - started_s)
    out.print(f"  POST /v1/rank, changed {reaction_ms:.0f} ms after the click was acknowledged:")
    _print_ranked(after["items"], titles, ranks)


async def _until_served_by(session: aiohttp.ClientSession, user: str, model: str) -> dict[str, Any]:
    deadline_s = time.monotonic() + WAIT_S
    while True:
        answer = await _json(session.get(f"/v1/recommend/{user}", params={"k": str(SHOWN)}))
        if model in answer["model"] and len(answer["items"]) == SHOWN:
            return answer
        _check(
            deadline_s,
            f"the server does not answer with {model}, but with {answer['model'] or answer['fallback']}",
        )
        await asyncio.sleep(POLL_S)


async def _until_changed(session: aiohttp.ClientSession, user: str, before: dict[str, Any]) -> dict[str, Any]:
    items = [ranked["item"] for ranked in before["items"]]
    scores = {ranked["item"]: ranked["score"] for ranked in before["items"]}
    deadline_s = time.monotonic() + WAIT_S
    while True:
        after = await _rank(session, user, items)
        if {ranked["item"]: ranked["score"] for ranked in after["items"]} != scores:
            return after
        _check(deadline_s, "the click did not change the ranking")
        await asyncio.sleep(POLL_S)


async def _rank(session: aiohttp.ClientSession, user: str, items: list[str]) -> dict[str, Any]:
    return await _json(session.post("/v1/rank", json={"user": user, "items": items, "slot": "demo"}))


async def _click(session: aiohttp.ClientSession, user: str, item: str, ts: str) -> None:
    # The click is in the data's own time: the year's end is this system's present.
    event = {"id": uuid.uuid4().hex, "type": "click", "user": user, "item": item, "ts": ts}
    answer = await _json(session.post("/v1/events", json=event))
    if answer["rejected"]:
        raise DemoError(f"the click was rejected: {answer['rejected'][0]}.")


async def _json(request: AbstractAsyncContextManager[aiohttp.ClientResponse]) -> dict[str, Any]:
    async with request as response:
        body: dict[str, Any] = await response.json(content_type=None)
        if response.status >= HTTPStatus.BAD_REQUEST:
            raise DemoError(f"{response.method} {response.url.path} answered {response.status}: {body}.")
        return body


def _check(deadline_s: float, what: str) -> None:
    if time.monotonic() > deadline_s:
        raise DemoError(f"{what}, {WAIT_S:.0f} s long.", hint="See the logs in PERSONA_HOME/logs.")


def _print_ranked(items: list[dict[str, Any]], titles: Titles, ranks_before: Mapping[str, int]) -> None:
    rows = []
    for ranked in items:
        moved = f"was {ranks_before[ranked['item']]}" if ranked["item"] in ranks_before else ""
        rows.append([str(ranked["rank"]), titles.get(ranked["item"], ranked["item"]), f"{ranked['score']:.3f}", moved])
    print_table(["rank", "item", "score", ""], rows, right=frozenset({"rank", "score"}))
