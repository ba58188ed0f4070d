"""Load on one HTTP endpoint, of two kinds, in one process of its own (so that it does not slow the server's).

Open loop: requests leave on a fixed schedule, whether or not earlier ones were answered, and latency counts
from the *scheduled* time. A server that stalls for a second is charged for every request of that second; a
closed loop would have sent one ("coordinated omission", G. Tene, How NOT to Measure Latency). Closed loop:
a number of clients, each sending its next request when the last was answered; it finds the throughput.

    python -m benchmarks.http_load http://127.0.0.1:8099/echo --body body.json --rate 200 --seconds 10
    python -m benchmarks.http_load http://127.0.0.1:8099/echo --body body.json --clients 8 --seconds 10

Only loopback addresses are accepted, and duration, rate and connections are bounded: it is a benchmark, not a
tool to load other people's servers.
"""

import argparse
import asyncio
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import msgspec
import uvloop

from benchmarks.http_client import Connection, Target, parse_url

MAX_SECONDS = 120.0
MAX_RATE_PER_S = 20_000.0
MAX_CONNECTIONS = 256
WARM_CONNECTIONS = 8
DRAIN_S = 10.0


class OpenLoop(msgspec.Struct):
    """Latencies in milliseconds from the scheduled send time; ``failed`` requests are not among them.

    ``late_ms_p99`` is how late the generator itself sent (also part of the latencies): when it is not small
    against them, the machine was too busy to measure.
    """

    scheduled: int
    answered: int
    failed: int
    rate_per_s: float
    duration_s: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    late_ms_p99: float
    connections: int


class ClosedLoop(msgspec.Struct):
    """Requests answered a second by ``clients`` clients, and the latency of each (from its own sending)."""

    clients: int
    answered: int
    failed: int
    duration_s: float
    requests_per_s: float
    p50_ms: float
    p99_ms: float


def run_open_loop(url: str, bodies: Sequence[bytes], rate_per_s: float, duration_s: float) -> OpenLoop:
    """Send ``bodies`` in turn as POST requests, ``rate_per_s`` of them evenly spaced, for ``duration_s``.

    Blocks until the last is answered or 10 s late (then it failed). Raises ValueError for an address that is
    not loopback or a value out of bounds, ConnectionError when the server cannot be reached at all.
    """
    _check(bodies, duration_s, rate_per_s=rate_per_s)
    return uvloop.run(_OpenLoopRun(parse_url(url), bodies, rate_per_s, duration_s).run())


def run_closed_loop(url: str, bodies: Sequence[bytes], clients: int, duration_s: float) -> ClosedLoop:
    """Keep ``clients`` connections busy with POST requests for ``duration_s``. Raises as the open loop
    does."""
    _check(bodies, duration_s, clients=clients)
    return uvloop.run(_closed_loop(parse_url(url), bodies, clients, duration_s))


def _check(bodies: Sequence[bytes], duration_s: float, rate_per_s: float = 1.0, clients: int = 1) -> None:
    if not bodies:
        raise ValueError("bodies is empty: give at least one request body")
    bounds = (
        ("duration_s", duration_s, MAX_SECONDS),
        ("rate_per_s", rate_per_s, MAX_RATE_PER_S),
        ("clients", clients, MAX_CONNECTIONS),
    )
    for name, value, most in bounds:
        if not 0 < value <= most:
            raise ValueError(f"{name} is {value}, it must be above 0 and at most {most:g}")


def percentile(ordered: Sequence[float], q: float) -> float:
    """The nearest-rank ``q``-quantile (0 to 1) of ascending values; NaN when there are none."""
    if not ordered:
        return float("nan")
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


class _OpenLoopRun:
    def __init__(self, target: Target, bodies: Sequence[bytes], rate_per_s: float, duration_s: float) -> None:
        self._target = target
        self._requests = [target.request(body) for body in bodies]
        self._rate_per_s = rate_per_s
        self._duration_s = duration_s
        self._idle: list[Connection] = []
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._connections = 0
        self._opening: set[asyncio.Task[None]] = set()
        self._latencies_s: list[float] = []
        self._late_s: list[float] = []
        self._failed = 0
        self._left = int(rate_per_s * duration_s)
        self._done = asyncio.Event()

    async def run(self) -> OpenLoop:
        count = self._left
        for _ in range(WARM_CONNECTIONS):
            self._idle.append(await Connection.open(self._target))
        self._connections = WARM_CONNECTIONS
        loop = asyncio.get_running_loop()
        await asyncio.to_thread(self._pace, loop, time.perf_counter(), count)
        try:
            await asyncio.wait_for(self._done.wait(), DRAIN_S)
        except TimeoutError:
            self._failed += self._left
        for task in self._opening:
            task.cancel()
        return self._summary(count)

    def _pace(self, loop: asyncio.AbstractEventLoop, start_s: float, count: int) -> None:
        # a thread, because an event loop's timers are a millisecond coarse: as long as a good answer takes
        sent = 0
        while sent < count:
            time.sleep(max(start_s + sent / self._rate_per_s - time.perf_counter(), 0.0))
            due = min(count, int((time.perf_counter() - start_s) * self._rate_per_s) + 1)
            loop.call_soon_threadsafe(self._release, start_s, sent, due)
            sent = due

    def _release(self, start_s: float, first: int, end: int) -> None:
        now_s = time.perf_counter()
        for number in range(first, end):
            scheduled_s = start_s + number / self._rate_per_s
            self._late_s.append(now_s - scheduled_s)
            self._waiting.append((scheduled_s, self._requests[number % len(self._requests)]))
        self._dispatch()

    def _dispatch(self) -> None:
        while self._waiting and self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                self._send(connection, *self._waiting.popleft())
            else:
                self._connections -= 1
        wanted = min(len(self._waiting) - len(self._opening), MAX_CONNECTIONS - self._connections)
        for _ in range(wanted):
            self._connections += 1
            task = asyncio.ensure_future(self._grow())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _grow(self) -> None:
        try:
            self._idle.append(await Connection.open(self._target))
        except OSError:
            self._connections -= 1
            if self._waiting:
                self._waiting.popleft()
                self._settle(failed=True)
        self._dispatch()

    def _send(self, connection: Connection, scheduled_s: float, request: bytes) -> None:
        def answered(status: int, reusable: bool) -> None:
            if status == 200:
                self._latencies_s.append(time.perf_counter() - scheduled_s)
            if reusable:
                self._idle.append(connection)
            else:
                connection.close()
                self._connections -= 1
            self._settle(failed=status != 200)
            self._dispatch()

        connection.send(request, answered)

    def _settle(self, *, failed: bool) -> None:
        self._failed += failed
        self._left -= 1
        if not self._left:
            self._done.set()

    def _summary(self, count: int) -> OpenLoop:
        ms = sorted(latency_s * 1000.0 for latency_s in self._latencies_s)
        return OpenLoop(
            scheduled=count,
            answered=len(ms),
            failed=self._failed,
            rate_per_s=self._rate_per_s,
            duration_s=self._duration_s,
            p50_ms=percentile(ms, 0.5),
            p90_ms=percentile(ms, 0.9),
            p99_ms=percentile(ms, 0.99),
            p999_ms=percentile(ms, 0.999),
            max_ms=ms[-1] if ms else float("nan"),
            late_ms_p99=percentile(sorted(self._late_s), 0.99) * 1000.0,
            connections=self._connections,
        )


async def _closed_loop(target: Target, bodies: Sequence[bytes], clients: int, duration_s: float) -> ClosedLoop:
    requests = [target.request(body) for body in bodies]
    connections = [await Connection.open(target) for _ in range(clients)]
    start_s = time.perf_counter()
    deadline_s = start_s + duration_s
    outcomes = await asyncio.gather(
        *(_client(connection, requests[i:] + requests[:i], deadline_s) for i, connection in enumerate(connections))
    )
    elapsed_s = time.perf_counter() - start_s
    ms = sorted(latency_s * 1000.0 for latencies_s, _ in outcomes for latency_s in latencies_s)
    failed = sum(failures for _, failures in outcomes)
    return ClosedLoop(
        clients, len(ms), failed, elapsed_s, len(ms) / elapsed_s, percentile(ms, 0.5), percentile(ms, 0.99)
    )


async def _client(connection: Connection, requests: list[bytes], deadline_s: float) -> tuple[list[float], int]:
    latencies_s: list[float] = []
    failed = number = 0
    while (sent_s := time.perf_counter()) < deadline_s:
        status, reusable = await connection.ask(requests[number % len(requests)])
        if status == 200:
            latencies_s.append(time.perf_counter() - sent_s)
        else:
            failed += 1
        if not reusable:
            break
        number += 1
    connection.close()
    return latencies_s, failed


def main() -> None:
    """The command line: one JSON object on standard output."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.http_load", description="load on a loopback URL")
    parser.add_argument("url")
    parser.add_argument("--body", type=Path, required=True, help="a file with one JSON body a line")
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--rate", type=float, help="open loop: requests a second")
    kind.add_argument("--clients", type=int, help="closed loop: number of clients")
    parser.add_argument("--seconds", type=float, default=10.0)
    args = parser.parse_args()
    bodies = args.body.read_bytes().splitlines()
    found: OpenLoop | ClosedLoop
    if args.rate:
        found = run_open_loop(args.url, bodies, args.rate, args.seconds)
    else:
        found = run_closed_loop(args.url, bodies, args.clients, args.seconds)
    print(msgspec.json.encode(found).decode())


if __name__ == "__main__":
    main()
