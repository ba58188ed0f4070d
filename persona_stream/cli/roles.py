"""One role alone: `worker`, `serve`, `mirror`, `broker`. Each runs until Ctrl-C or SIGTERM."""

import os
import time

from persona_stream.broker import EmbeddedBroker
from persona_stream.cli.broker_progress import broker_progress
from persona_stream.cli.console import err, out
from persona_stream.cli.embedded import broker_for
from persona_stream.cli.running import Running, announced, connected
from persona_stream.cli.signals import terminating
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import BrokerStartError

_WATCH_S = 0.5


def run_worker(settings: Settings) -> int:
    """Fold events into tables; returns the exit code."""
    # Imported late: each of these roles pulls in much that the other does not need.
    from persona_stream.worker.run import run_worker as run

    return run(_usable(settings))


def run_serve(settings: Settings) -> int:
    """Answer requests from replicas of the tables; returns the exit code."""
    from persona_stream.serving.server import run_server

    run_server(_usable(settings))
    return 0


def run_mirror(settings: Settings) -> int:
    """Keep Redis equal to the tables; returns the exit code."""
    from persona_stream.mirror.run import run_mirror as run

    run(connected(settings))
    return 0


def run_broker(settings: Settings, *, port: int) -> int:
    """Run the embedded broker alone until stopped. Raises BrokerStartError where it fails or dies."""
    broker = broker_for(settings.home, port)
    with terminating():
        try:
            with broker_progress() as on_progress:
                bootstrap = broker.start(on_progress)
            with announced(settings.home, Running(pid=os.getpid(), bootstrap=bootstrap)):
                out.print(f"Kafka is at {bootstrap} (process {broker.pid}). Ctrl-C stops it; data is kept.")
                err.print(f"log: {broker.log_path}")
                _watch(broker)
        finally:
            broker.stop()
    return 0


def _usable(settings: Settings) -> Settings:
    """Settings that name a cluster and a catalogue of features without a mistake. Raises ConfigError."""
    from tables.features.plan import plan_of

    plan_of(settings)
    return connected(settings)


def _watch(broker: EmbeddedBroker) -> None:
    while broker.is_alive:
        time.sleep(_WATCH_S)
    raise BrokerStartError(f"the broker ended by itself. Log: {broker.log_path}.", hint="Start it again: data is kept.")
