"""`POST /v1/events`: accepted means that Kafka has it."""

import msgspec

from persona_stream.serving.endpoint import Call, Reply, Route
from persona_stream.serving.event_body import checked_events
from persona_stream.serving.http_metrics import EVENTS
from persona_stream.serving.schemas import EventsAnswer
from persona_stream.vocabulary.events import Event

ACCEPTED = 202

_encode = msgspec.json.Encoder().encode


async def post_events(call: Call) -> Reply:
    """Publish the events of a body that keep the contract; say of each other one what is wrong with it."""
    body = await call.request.read()
    state = call.state
    checked = await checked_events(body, call.request.content_type, state.settings.max_future_skew_ms)
    if checked.records:
        await state.events.publish(checked.records)
        EVENTS.labels("accepted").inc(len(checked.records))
    for rejected in checked.rejected:
        EVENTS.labels(rejected.code).inc()
    return Reply(_encode(EventsAnswer(len(checked.records), checked.rejected)), status=ACCEPTED)


EVENT_ROUTES = (
    Route(
        method="POST",
        path="/v1/events",
        handler=post_events,
        name="events",
        summary="Publish what users did. Any content type is taken, so that `navigator.sendBeacon` works.",
        body=Event,
        answer=EventsAnswer,
        answer_status=ACCEPTED,
        problems=("bad-json", "too-large", "too-many-events", "kafka-unavailable", "overloaded"),
    ),
)
