"""Finding one decision in the log."""

from contextlib import aclosing

import msgspec
from aiokafka import ConsumerRecord

from models.topic_reader import OnProgress, bounds, ignore_progress, read_topic
from persona_stream.kafka.writer import Partitioner
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import PersonaError
from persona_stream.vocabulary.ids import made_ms
from persona_stream.vocabulary.messages import Decision, decode_decision
from persona_stream.vocabulary.topics import Topics

_AHEAD_MS = 600_000
"""A decision made by a clock that is ahead of the broker's by more is found among those before, which takes longer."""


class DecisionNotFoundError(PersonaError):
    """The log has no such decision."""

    code = "no-decision"


async def find_decision(
    settings: Settings, decision_id: str, *, user: str | None = None, on_progress: OnProgress = ignore_progress
) -> Decision:
    """The decision of an id. Its time, told by the id, says where to begin; a user, in which partition to look.

    `settings.partitions` must be the topic's. Raises DecisionNotFoundError, and as `read_topic` does.
    """
    topic = Topics(settings.namespace).decisions
    made_at_ms = made_ms(decision_id)
    ends = {partition: bound.end for partition, bound in (await bounds(settings, topic)).items()}
    if user is not None:
        partition = Partitioner(settings.partitions)(user.encode())
        ends = {partition: ends[partition]}
    likely = dict.fromkeys(ends, 0)
    if made_at_ms is not None:
        before = await bounds(settings, topic, at_ms=made_at_ms - _AHEAD_MS)
        likely = {partition: before[partition].end for partition in ends}
    for starts, up_to in ((likely, ends), (dict.fromkeys(ends, 0), likely)):
        async with aclosing(read_topic(settings, topic, starts=starts, ends=up_to, on_progress=on_progress)) as reading:
            async for records in reading:
                decision = _among(records, decision_id)
                if decision is not None:
                    return decision
    raise DecisionNotFoundError(
        f"no decision {decision_id}{f' of user {user}' if user is not None else ''} is in topic {topic}.",
        hint="Is --namespace right? It takes a moment until a decision is written; an answer with fallback `error` is"
        " not logged, nor are some of those made while Kafka was away (`persona_decisions_dropped_total`).",
    )


def _among(records: list[ConsumerRecord], decision_id: str) -> Decision | None:
    sought = decision_id.encode()
    for record in records:
        if sought in (record.value or b""):
            try:
                decision = decode_decision(record.value)
            except msgspec.DecodeError as error:
                where = f"{record.topic}/{record.partition}/{record.offset}"
                raise PersonaError(f"{where} can't be read as a decision: {error}.") from None
            if decision.id == decision_id:
                return decision
    return None
