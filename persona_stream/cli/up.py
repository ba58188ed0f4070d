"""`persona-stream up`: the whole system in one command, and what it is doing, on one line."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from rich.markup import escape

from persona_stream.cli.broker_progress import broker_progress
from persona_stream.cli.console import err, out, quiet_libraries
from persona_stream.cli.running import Running, announced, server_url, worker_url
from persona_stream.cli.signals import run_until_terminated, terminating
from persona_stream.cli.stream_progress import follow
from persona_stream.cli.supervisor import Kafka, Supervisor, child_specs, embedded_kafka, with_free_ports
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.topics import Topics
from tables.features.plan import plan_of


def run_up(settings: Settings) -> int:
    """Run broker, worker and server until Ctrl-C or SIGTERM; returns the exit code of the latter."""
    with system(settings) as kafka:
        return run_until_terminated(_up(kafka))


@contextmanager
def system(settings: Settings) -> Iterator[Kafka]:
    """A cluster and free ports for a whole system, announced to other commands of the same home."""
    quiet_libraries()
    # A catalogue with a mistake is told here, rather than by a worker and a server that end again and again.
    plan_of(settings)
    with terminating(), _announced_kafka(with_free_ports(settings, notify)) as kafka:
        yield kafka


def notify(line: str) -> None:
    """Show the operator a line that is worth reading, above whatever progress is shown."""
    err.print(f"[yellow]![/yellow] {escape(line)}")


async def _up(kafka: Kafka) -> None:
    err.print("starting the worker and the server ...")
    async with Supervisor(kafka, child_specs(kafka.settings), notify=notify) as supervisor:
        print_started(supervisor)
        following = asyncio.create_task(follow(supervisor.settings))
        try:
            await supervisor.run()
        finally:
            following.cancel()
            err.print("stopping ...")


def print_started(supervisor: Supervisor) -> None:
    """What runs, where, and the first two things to try."""
    settings = supervisor.settings
    url = server_url(settings)
    out.print(f"\n[bold green]persona-stream is up[/bold green]  {url}")
    out.print(f"  Kafka      {settings.kafka}{'' if supervisor.kafka.broker is None else '  (embedded)'}")
    out.print(f"  events     topic {Topics(settings.namespace).events}, key = user id, JSON")
    for child in supervisor.children:
        out.print(f"  {child.spec.name:<10} process {child.pid}, log {child.log_path}", markup=False)
    out.print(f"  dashboard  {url}/   metrics {url}/metrics   API {url}/openapi.json")
    out.print("\n[bold]Publish an event[/bold]")
    out.print(
        f"""  curl -s {url}/v1/events -d '{{"id": "e1", "type": "click", "user": "u1", "item": "i9","""
        f""" "ts": "'$(date -u +%FT%TZ)'"}}'""",
        markup=False,
    )
    out.print("[bold]Ask for a ranking[/bold]")
    out.print(f"""  curl -s {url}/v1/rank -d '{{"user": "u1", "items": ["i7", "i8", "i9"]}}'""", markup=False)
    out.print("[bold]Publish a file[/bold]")
    out.print(f"  persona-stream publish events.jsonl --kafka {settings.kafka} --namespace {settings.namespace}")
    out.print("\nCtrl-C stops everything; data is kept.\n")


@contextmanager
def _announced_kafka(settings: Settings) -> Iterator[Kafka]:
    with ExitStack() as stack:
        with broker_progress() as on_progress:
            kafka = stack.enter_context(embedded_kafka(settings, on_progress))
        running = Running(
            pid=os.getpid(),
            bootstrap=kafka.settings.kafka,
            url=server_url(settings),
            worker_url=worker_url(settings),
        )
        stack.enter_context(announced(settings.home, running))
        yield kafka
