"""The Faust consumer that delivers slices, and the transport that brings it in.

    app = faust.App(...)
    app.transport = BatchingTransport([app.conf.broker_consumer[0]], app)

Every topic of the app is delivered by the slice: a message's `value` is a `Slice`, its `offset` the slice's last. The
topics need `SliceSchema`, which passes that value through.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator
from time import monotonic
from typing import Any, Protocol, cast

import faust
from aiokafka import ConsumerRecord
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, Message
from faust.types.tuples import ConsumerMessage, ack_lock
from mode.utils.futures import notify

from persona_stream.stream.slices import CommitTracker, Slice

EFFECTS_TIMEOUT_S = 5.0
"""How long a rebalance waits for effects: within the session timeout, or the group goes on without this worker."""
LAST_EFFECTS_TIMEOUT_S = 15.0
"""How long the end of the worker waits for them: nobody else does."""

FETCH_GRACE_S = 5.0
"""A missing fetch is told this much later than a slice that hangs: it brings fetches to a halt, and says more."""

PACE_S = 0.004
"""Under a steady trickle, fetches begin at least this far apart: slices of a few events cost as much as large ones.
What comes after a pause is fetched at once."""


class SliceSchema(faust.Schema[Any, Any]):
    """Passes a slice through as the event's value; there is no key, each record has its own."""

    def loads_key(self, app: Any, message: Message, **_: Any) -> None:
        """No key: a slice holds records of many."""

    def loads_value(self, app: Any, message: Message, **_: Any) -> Any:
        """The slice itself."""
        return message.value


class FoldingApp(Protocol):
    """What the consumer needs of its app."""

    def folded(self, topic: str, partition: int) -> int | None:
        """The source offset up to which all is in the state held; None where that is kept in no table."""


class BatchingConsumer(driver.Consumer):
    """Delivers what a fetch brought for a partition as one message, and commits by the slice."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._trackers: dict[TP, CommitTracker] = defaultdict(CommitTracker)
        self._fetched_s = 0.0
        self._answered_ms = 0
        self._answered_s = 0.0
        super().__init__(*args, **kwargs)

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Message]]:
        """One message a partition that has new records; partitions take turns by themselves, a fetch bounds each."""
        await asyncio.sleep(max(0.0, self._fetched_s + PACE_S - monotonic()))
        records, active = await self._wait_next_records(timeout)
        self._fetched_s = monotonic()
        self._note_answers()
        generation_id = self.app.consumer_generation_id
        if not self.flow_active:
            # A rebalance began while the fetch ran: what it brought may be another worker's by now.
            await self._forget_positions()
            return
        for tp, fetched in (records or {}).items():
            if not self.flow_active or self.app.consumer_generation_id != generation_id:
                return
            if active is None or tp in active or tp in self._buffered_partitions:
                message = self._deliver(tp, fetched)
                if message is not None:
                    self.app.monitor.track_tp_end_offset(tp, self.highwater(tp))
                    yield tp, message

    def _deliver(self, tp: TP, fetched: list[ConsumerRecord]) -> ConsumerMessage | None:
        part: Slice | None = Slice(tp.topic, tp.partition, fetched)
        read_offset = self._read_offset[tp]
        if part is not None and read_offset is not None:
            part = part.starting_at(read_offset)
        if part is None:
            return None
        self._trackers[tp].delivered(part)
        last = part.records[-1]
        return ConsumerMessage(
            tp.topic,
            tp.partition,
            part.last_offset,
            last.timestamp / 1000.0,
            0,
            None,
            None,
            part,  # type: ignore[arg-type]  # Faust types a value as bytes; SliceSchema passes it through
            None,
            tp=tp,
            generation_id=self.app.consumer_generation_id,
        )

    def ack(self, message: Message) -> bool:
        """The agent is done with a message. Commits follow `Slice.applied`, not this: an agent that failed acks too."""
        with ack_lock:
            message.acked = True
            self._unacked_messages.discard(message)
            self._n_acked += len(message.value or ())
            notify(self._waiting_for_ack)
            return True

    async def wait_empty(self) -> None:
        """Before a rebalance or the end: wait for slices that agents work on, then for effects still on their way."""
        await super().wait_empty()
        timeout_s = LAST_EFFECTS_TIMEOUT_S if self.app.should_stop else EFFECTS_TIMEOUT_S
        until_s = monotonic() + timeout_s
        # Again and again: an agent may submit its next slice while those before are waited for.
        while (unfinished := self._unfinished()) and monotonic() < until_s:
            await asyncio.wait(unfinished, timeout=until_s - monotonic())
        if unfinished:
            self.log.warning("%s slices were not written within %s s; they come again", len(unfinished), timeout_s)
        # A commit that is on its way began before the last effects were written: it does not stand for this one.
        await self.maybe_wait_for_commit_to_finish()
        await self.commit()

    def _unfinished(self) -> list[asyncio.Future[None]]:
        return [effects for tracker in self._trackers.values() for effects in tracker.unfinished()]

    def stalled(self, timeout_s: float) -> str:
        """What has not got on for longer than `timeout_s`; empty if all does, or there is nothing to do."""
        for tp, tracker in self._trackers.items():
            if tracker.stalled_s() > timeout_s:
                return f"{tp.topic}/{tp.partition}: no slice was applied for {tracker.stalled_s():.0f} s, and some wait"
        if self.flow_active and self._fetched_s and monotonic() - self._fetched_s > timeout_s + FETCH_GRACE_S:
            return f"no fetch has come back for {monotonic() - self._fetched_s:.0f} s"
        if self.flow_active and self._answered_s and monotonic() - self._answered_s > timeout_s + FETCH_GRACE_S:
            return f"Kafka has not answered a fetch for {monotonic() - self._answered_s:.0f} s"
        return ""

    def resume_flow(self) -> None:
        """Fetch on; answers are waited for from now."""
        super().resume_flow()
        self._answered_s = monotonic()

    def _note_answers(self) -> None:
        """Note when Kafka last answered, be it with nothing: on a dead connection nothing comes either."""
        consumer = self._thread._consumer
        polled = map(consumer.last_poll_timestamp, consumer.assignment()) if consumer is not None else ()
        answered_ms = max(filter(None, polled), default=0)
        if answered_ms != self._answered_ms:
            self._answered_ms, self._answered_s = answered_ms, monotonic()

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Nothing to do: `stalled` tells. Faust's own watch ends the worker where a seek has just unset a position."""

    def _filter_tps_with_pending_acks(self, topics: Iterable[Any] | None = None) -> Iterator[TP]:
        return (tp for tp in list(self._trackers) if topics is None or tp in topics or tp.topic in topics)

    def _new_offset(self, tp: TP) -> int | None:
        return self._trackers[tp].committable()

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """No gaps to keep: the records between two messages are in the slices, or were compacted away."""

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Forget slices in flight once Faust has waited for them and committed."""
        await super().on_partitions_revoked(revoked)
        for tp in revoked:
            self._trackers.pop(tp, None)

    async def perform_seek(self) -> None:
        """Read on behind what the state held has of each partition; slices delivered before don't count any more.

        Faust seeks when recovery is done, and then empties the streams' queues: a slice that was fetched in between
        would be lost, and later ones committed past it. So the flow stands still, until Faust resumes it right after;
        what a fetch still brings is dropped and sought again.
        """
        self.stop_flow()
        self._trackers.clear()
        await self._seek_to_progress()

    async def _seek_to_progress(self) -> None:
        """Go by the tables' progress: state and position can't part, whichever generation of a table is live.

        Committed offsets stand in only where a topic is folded into no table. They are asked for all the same: what is
        committed goes on from there.
        """
        await super().perform_seek()
        # Progress of nothing, too, is a position: what was fetched and dropped in a rebalance must be read again.
        offsets = {
            self._new_topicpartition(tp.topic, tp.partition): self._next_offset(tp)
            for tp in self.assignment()
            if not self._is_changelog_tp(tp)
        }
        beginning = [tp for tp, offset in offsets.items() if not offset]
        for tp in beginning:
            self._read_offset[tp] = None
        if beginning:
            await self._thread.seek_to_beginning(*beginning)
        if len(beginning) < len(offsets):
            await self._thread.seek_wait({tp: offset for tp, offset in offsets.items() if offset})

    def _next_offset(self, tp: TP) -> int:
        folded = cast(FoldingApp, self.app).folded(tp.topic, tp.partition)
        return (self._committed_offset.get(tp) or 0) if folded is None else folded + 1

    async def _forget_positions(self) -> None:
        if self.app.should_stop:
            return
        try:
            # Slices in flight still count: whoever stops the flow waits for them next, and commits them.
            await self._seek_to_progress()
        except Exception as error:
            # The coordinator may be away in a rebalance; Faust seeks again when the assignment arrives.
            self.log.warning("seek failed during a rebalance: %r", error)


class BatchingTransport(driver.Transport):
    """Faust's Kafka transport with the batching consumer."""

    Consumer = BatchingConsumer
