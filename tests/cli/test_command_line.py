"""The front door: exit codes, messages, and what importing it costs."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from support.redis_server import RedisServer

from persona_stream.cli.commands import app
from persona_stream.cli.running import Running, announced, find_running
from persona_stream.vocabulary.config import Settings

Run = Callable[..., subprocess.CompletedProcess[str]]
Call = Run
Process = subprocess.Popen[str]

COMMANDS = [
    "up",
    "demo",
    "worker",
    "serve",
    "broker",
    "publish",
    "train",
    "models",
    "features",
    "doctor",
    "topics",
    "config",
]


def test_help_names_every_command(call: Call) -> None:
    done = call("--help")
    assert done.returncode == 0
    assert [name for name in COMMANDS if f" {name} " not in done.stdout] == []


LEAVES = [
    *([name] for name in COMMANDS if name not in {"models", "features"}),
    *(["models", name] for name in ("list", "promote", "rollback")),
    *(["features", name] for name in ("list", "check", "preview")),
]


@pytest.mark.parametrize("command", LEAVES, ids=" ".join)
def test_every_command_and_every_parameter_has_help(command: Sequence[str]) -> None:
    _, apps, _ = app.parse_commands(command)
    assert apps[-1].help
    for argument in apps[-1].assemble_argument_collection():
        assert not argument.show or argument.parameter.help, argument.name


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["pubish", "x"], 'Did you mean "publish"?'),
        (["publish"], "FILE requires an argument"),
        (["serve", "--http-prot", "80"], "Did you mean --http-port?"),
        (["serve", "--http-port", "eighty"], "--http-port"),
        (["publish", "-", "--topic", "evnts"], "--topic"),
    ],
    ids=["command", "argument", "flag", "type", "choice"],
)
def test_wrong_usage_exits_with_2_and_says_what_is_right(call: Call, arguments: list[str], says: str) -> None:
    done = call(*arguments)
    assert done.returncode == 2
    assert says in " ".join(done.stderr.replace("│", " ").split())


def test_without_any_kafka_the_message_says_how_to_get_one(call: Call) -> None:
    done = call("publish", "-")
    assert done.returncode == 1
    assert done.stderr.startswith("persona-stream: no Kafka is known")
    assert "persona-stream up" in done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["publish", "--help"], ["config"]], ids=" ".join)
def test_help_and_config_import_nothing_heavy(env: dict[str, str], arguments: list[str]) -> None:
    heavy = ["aiokafka", "aiohttp", "faust", "numpy", "pandas", "lightgbm", "onnxruntime", "river"]
    program = f"""
import sys
from persona_stream.cli.main import main
try:
    main({arguments!r})
except SystemExit as end:
    loaded = [name for name in {heavy!r} if name in sys.modules]
    sys.exit(end.code or ", ".join(loaded) or None)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, f"imported: {done.stderr}"


@pytest.fixture
def broker(env: dict[str, str]) -> Iterator[Process]:
    """`persona-stream broker`, once it is ready."""
    command = [sys.executable, "-m", "persona_stream", "broker", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("Kafka is at 127.0.0.1:")
        yield process
    finally:
        process.kill()
        process.communicate()


def test_other_commands_find_the_broker_of_their_home(broker: Process, run: Run, home: Path) -> None:
    assert run("topics").returncode == 1, "nothing was created yet"
    created = run("topics", "--create")
    assert created.returncode == 0, created.stderr
    assert "persona.events.v1\t4\t0" in created.stdout
    published = run("publish", "-", stdin='{"id":"e","type":"search","user":"u","ts":5}\n')
    assert published.returncode == 0, published.stderr
    assert "persona.events.v1\t4\t1" in run("topics").stdout
    broker.send_signal(signal.SIGTERM)
    assert broker.wait(20) == 0
    assert find_running(home) is None
    assert run("publish", "-").returncode == 1


def test_ctrl_c_exits_with_130_and_no_traceback(broker: Process) -> None:
    broker.send_signal(signal.SIGINT)
    _, errors = broker.communicate(timeout=20)
    assert broker.returncode == 130
    assert "Traceback" not in errors


def test_a_killed_system_is_not_found(tmp_path: Path) -> None:
    gone = Running(pid=os.getpid(), bootstrap="127.0.0.1:1")
    with announced(tmp_path, gone):
        assert find_running(tmp_path) is None


def test_a_system_that_runs_is_found_until_it_leaves(kafka: str, tmp_path: Path) -> None:
    running = Running(pid=os.getpid(), bootstrap=kafka, url="http://127.0.0.1:8080")
    with announced(tmp_path, running):
        assert find_running(tmp_path) == running
    assert find_running(tmp_path) is None


def test_doctor_is_content_with_a_cluster_that_fits(call: Call, settings: Settings) -> None:
    done = call("doctor", settings=settings)
    assert done.returncode == 0, done.stdout
    assert "topics        all 17 exist" in done.stdout


def test_doctor_fails_on_partitions_that_do_not_fit(call: Call, settings: Settings) -> None:
    done = call("doctor", "--partitions", "8", settings=settings)
    assert done.returncode == 1
    assert "has 4 partitions, 8 partitions are configured" in done.stdout
    assert "Set PERSONA_PARTITIONS" in done.stdout


def test_doctor_fails_on_a_cluster_that_does_not_answer(call: Call) -> None:
    done = call("doctor", "--kafka", "127.0.0.1:1")
    assert done.returncode == 1
    assert "fail  kafka         no Kafka broker answers at 127.0.0.1:1" in done.stdout


def test_doctor_asks_the_redis_that_is_mirrored_to(call: Call, settings: Settings, redis: RedisServer) -> None:
    done = call("doctor", settings=settings, PERSONA_REDIS_URL=redis.url)
    assert (done.returncode, f"ok    redis         127.0.0.1:{redis.port} answers" in done.stdout) == (0, True)
    gone = call("doctor", settings=settings, PERSONA_REDIS_URL="redis://:secret@127.0.0.1:9/0")
    assert gone.returncode == 1
    assert "fail  redis         127.0.0.1:9 can't be used. Is it running" in gone.stdout
    assert "secret" not in gone.stdout + gone.stderr


def test_topics_tells_what_does_not_fit(call: Call, settings: Settings) -> None:
    done = call("topics", "--partitions", "8", settings=settings)
    assert done.returncode == 1
    assert f"{settings.namespace}.events.v1\t4\t0\t8 partitions are configured" in done.stdout
