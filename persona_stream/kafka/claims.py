"""Claiming a name at Kafka's transaction coordinator: each later claim of the same name counts one epoch up.

No transaction is ever begun. What is used is that a partition with a record of one epoch refuses those of earlier ones.
"""

import asyncio
import logging
from typing import ClassVar

from aiokafka.client import AIOKafkaClient, ConnectionGroup, CoordinationType
from aiokafka.errors import KafkaError, for_code
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import CompactString, Int16, Int32, Int64, Schema, TaggedFields
from msgspec import Struct

from persona_stream.vocabulary.errors import PartitionLostError

RETRY_S = 0.05
TIMEOUT_MS = 60_000
"""Asked for by the protocol; it would bound a transaction, and there is none."""

_COORDINATOR_MOVES = frozenset({14, 15, 16, 51})
"""Loading, not available, not this broker, or busy with the name's last claim: asked again."""
_SUPERSEDED = frozenset({47, 49, 90})
"""The epoch or the producer id is no longer the newest."""
_NO_ACL = 53
_NOT_CLAIMED = -1

logger = logging.getLogger(__name__)


class Producer(Struct, frozen=True):
    """What a claim gives: records sent under it carry both numbers."""

    id: int
    epoch: int


class _InitProducerIdResponse(Response):  # type: ignore[misc]  # aiokafka is untyped
    API_KEY = 22
    API_VERSION = 3
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        ("tags", TaggedFields),
    )


class _InitProducerIdStruct(RequestStruct):  # type: ignore[misc]  # aiokafka is untyped
    FLEXIBLE_VERSION = True
    API_KEY = 22
    API_VERSION = 3
    RESPONSE_TYPE = _InitProducerIdResponse
    SCHEMA = Schema(
        ("transactional_id", CompactString("utf-8")),
        ("transaction_timeout_ms", Int32),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        ("tags", TaggedFields),
    )


class _InitProducerId(Request[_InitProducerIdStruct]):  # type: ignore[misc]  # aiokafka is untyped
    """Version 3 (Kafka 2.5): unlike aiokafka's own version 0 it can say which claim it renews."""

    API_KEY: ClassVar[int] = 22

    def __init__(self, name: str, held: Producer) -> None:
        self._name = name
        self._held = held

    def build(self, request_struct_class: type[_InitProducerIdStruct]) -> _InitProducerIdStruct:
        return request_struct_class(self._name, TIMEOUT_MS, self._held.id, self._held.epoch, {})


async def claim(client: AIOKafkaClient, name: str, renewed: Producer | None = None) -> Producer:
    """Claim a name, or renew a claim that nobody has superseded. Waits while no coordinator answers.

    Raises PartitionLostError where another has claimed the name since, KafkaError where Kafka refuses.
    """
    request = _InitProducerId(name, renewed or Producer(_NOT_CLAIMED, _NOT_CLAIMED))
    while True:
        try:
            node = await client.coordinator_lookup(CoordinationType.TRANSACTION, name)
            answer = await client.send(node, request, group=ConnectionGroup.COORDINATION)
        except KafkaError as error:
            if not error.retriable:
                raise
            failure: KafkaError = error
        else:
            if answer.error_code == 0:
                return Producer(answer.producer_id, answer.producer_epoch)
            if answer.error_code in _SUPERSEDED:
                raise PartitionLostError(f"{name} was claimed by another worker.")
            if answer.error_code == _NO_ACL:
                raise KafkaError(f"no right to claim {name}: grant Describe and Write on this transactional id")
            failure = for_code(answer.error_code)(name)
            if answer.error_code not in _COORDINATOR_MOVES:
                raise failure
        # The first claim on a new cluster makes Kafka create a topic for the coordinator: a few tries are normal.
        logger.debug("asking again to claim %s: %r", name, failure)
        await client.force_metadata_update()
        await asyncio.sleep(RETRY_S)
