"""`persona-stream up` as a newcomer uses it: one command, real broker, worker and server, and nothing left behind."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from persona_stream.cli.probe import any_free_port
from persona_stream.cli.running import Running, find_running

Call = Callable[..., "subprocess.CompletedProcess[str]"]

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="asks /proc what is left")

READY_WITHIN_S = 120.0
APPLIED_WITHIN_S = 60.0


class Up:
    """A running `up` and what it printed."""

    def __init__(self, env: dict[str, str], output: Path) -> None:
        command = [sys.executable, "-m", "persona_stream", "up", "--http-port", str(any_free_port())]
        self._output = output
        with output.open("wb") as file:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=env)

    @property
    def printed(self) -> str:
        return self._output.read_text()

    def wait_for(self, pattern: str, timeout_s: float) -> "re.Match[str]":
        """The first match in what is printed, once it is."""
        deadline_s = time.monotonic() + timeout_s
        while not (found := re.search(pattern, self.printed)):
            assert self.process.poll() is None, self.printed
            assert time.monotonic() < deadline_s, f"{pattern} was not printed:\n{self.printed}"
            time.sleep(0.1)
        return found

    def pids(self) -> list[int]:
        return [int(pid) for pid in re.findall(r"process (\d+)", self.printed)]


@pytest.fixture
def up(env: dict[str, str], tmp_path: Path) -> Iterator[Up]:
    started = Up(env, tmp_path / "up.log")
    try:
        started.wait_for("persona-stream is up", READY_WITHIN_S)
        yield started
    finally:
        started.process.kill()
        started.process.wait()


def post(url: str, body: object) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode())  # noqa: S310  # our own server, by http
    with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310
        answer: dict[str, Any] = json.load(response)
    return answer


def click(number: int, item: str) -> dict[str, object]:
    return {"id": f"e{number}", "type": "click", "user": "u1", "item": item, "ts": time.time_ns() // 1_000_000}


def until_first(url: str, item: str) -> None:
    """Ask for a ranking until `item` leads it."""
    deadline_s = time.monotonic() + APPLIED_WITHIN_S
    while (answer := post(f"{url}/v1/rank", {"user": "u1", "items": ["i7", "i8", "i9"]}))["items"][0]["item"] != item:
        assert time.monotonic() < deadline_s, f"no click changed the answer: {answer}"
        time.sleep(0.05)


def is_gone(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def wait_until_gone(pids: list[int]) -> None:
    deadline_s = time.monotonic() + 20
    while left := [pid for pid in pids if not is_gone(pid)]:
        assert time.monotonic() < deadline_s, f"left behind: {left}"
        time.sleep(0.05)


def running_of(home: Path) -> Running:
    found = find_running(home)
    assert found is not None
    return found


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def broker_pid(home: Path) -> int:
    return int((home / "kafka" / "lock").read_text().split()[1])


@linux_only
def test_clicks_change_answers_through_a_killed_worker_and_ctrl_c_ends_all(up: Up, home: Path, call: Call) -> None:
    url = running_of(home).url
    assert post(f"{url}/v1/events", click(1, "i9")) == {"accepted": 1, "rejected": []}
    until_first(url, "i9")

    worker_pid = up.pids()[0]
    os.kill(worker_pid, signal.SIGKILL)
    up.wait_for(r"worker ended \(signal SIGKILL\); starting it again", 30)
    for number in (2, 3, 4):
        assert post(f"{url}/v1/events", click(number, "i7"))["accepted"] == 1
    until_first(url, "i7")

    assert "server        " + url + " is ready" in call("doctor").stdout
    everything = [*children_of(up.process.pid), broker_pid(home)]
    assert len(everything) == 4, "worker, server, the broker's guard, and Kafka"
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(30) == 130
    assert "Traceback" not in up.printed
    wait_until_gone(everything)
    assert find_running(home) is None


@linux_only
def test_nothing_is_left_when_up_itself_is_killed(up: Up, home: Path) -> None:
    everything = [*up.pids(), broker_pid(home)]
    assert not any(map(is_gone, everything))
    up.process.kill()
    wait_until_gone(everything)
