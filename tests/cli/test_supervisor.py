"""Supervision with tiny real processes: ready, restarted, given up on, stopped in order, never orphaned."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from persona_stream.cli.child import ChildFailedError, ChildSpec, RestartPolicy
from persona_stream.cli.cluster import partition_counts
from persona_stream.cli.probe import any_free_port, is_free
from persona_stream.cli.running import is_open
from persona_stream.cli.supervisor import (
    Kafka,
    NotReadyError,
    Supervisor,
    Timing,
    child_specs,
    embedded_kafka,
    with_free_ports,
)
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.topics import Topics

HASTY = RestartPolicy(quick_s=5.0, quick_deaths=3, first_delay_s=0.05, longest_delay_s=0.2)
TIMING = Timing(ready_s=10.0, grace_s=1.0)

# A server that is ready at once, and writes its name to a file when it is told to stop.
PROGRAM = """
import http.server, os, signal, sys, threading
from persona_stream.cli.lifeline import tie_to_supervisor
tie_to_supervisor()
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(STATUS); self.end_headers(); self.wfile.write(b'{"lag_events": 0}')
    def log_message(self, *_): pass
def stop(*_):
    with open("ended", "a") as file: file.write("NAME\\n")
    os._exit(0)
signal.signal(signal.SIGTERM, stop)
EXTRA
http.server.HTTPServer.allow_reuse_address = True
http.server.HTTPServer(("127.0.0.1", PORT), Ready).serve_forever()
"""


def make_spec(name: str, folder: Path, *, extra: str = "", status: int = 200) -> ChildSpec:
    port = any_free_port()
    program = PROGRAM.replace("NAME", name).replace("STATUS", str(status)).replace("PORT", str(port))
    path = folder / f"{name}.py"
    path.write_text(program.replace("EXTRA", extra).replace('"ended"', repr(str(folder / "ended"))))
    return ChildSpec(
        name=name, arguments=(str(path),), env=dict(os.environ), ready_url=f"http://127.0.0.1:{port}/readyz"
    )


@pytest.fixture
def notes() -> list[str]:
    return []


Make = Callable[..., Supervisor]


@pytest.fixture
def make(settings: Settings, notes: list[str]) -> Make:
    """`make(spec, ...)`: a supervisor of `specs` on the suite's Kafka."""

    def supervisor(*specs: ChildSpec) -> Supervisor:
        return Supervisor(Kafka(settings, None), specs, notify=notes.append, policy=HASTY, timing=TIMING)

    return supervisor


async def eventually(condition: Callable[[], bool], what: str, timeout_s: float = 15.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, what
        await asyncio.sleep(0.02)


def is_alive(pid: int) -> bool:
    with suppress(OSError):
        # A zombie has ended: it only waits to be reaped by whoever adopted it.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.asyncio
async def test_processes_are_ready_when_entered_and_stop_last_first(make: Make, tmp_path: Path) -> None:
    async with make(make_spec("worker", tmp_path), make_spec("server", tmp_path)) as supervisor:
        pids = [child.pid for child in supervisor.children]
        assert all(pid is not None and is_alive(pid) for pid in pids)
    assert (tmp_path / "ended").read_text() == "server\nworker\n"
    assert not any(pid is not None and is_alive(pid) for pid in pids)


@pytest.mark.asyncio
async def test_a_process_that_dies_is_started_again(make: Make, tmp_path: Path, notes: list[str]) -> None:
    async with make(make_spec("worker", tmp_path)) as supervisor:
        (child,) = supervisor.children
        first = child.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: child.pid not in {None, first}, "it was not started again")
        assert child.restarts == 1
    assert any("worker ended (signal SIGKILL); starting it again" in note for note in notes)


@pytest.mark.asyncio
async def test_one_that_keeps_dying_ends_all_with_the_tail_of_its_log(make: Make, tmp_path: Path) -> None:
    healthy = make_spec("worker", tmp_path)
    supervisor = make(healthy, make_spec("server", tmp_path, extra="raise SystemExit('the port is cursed')"))
    with pytest.raises(ChildFailedError, match="the port is cursed") as caught:
        async with supervisor:
            pytest.fail("it was never ready")
    assert "the server died 3 times in a row" in str(caught.value)
    assert [child.pid for child in supervisor.children] == [None, None]


@pytest.mark.asyncio
async def test_one_that_keeps_dying_later_ends_the_run(make: Make, tmp_path: Path) -> None:
    async with make(make_spec("worker", tmp_path)) as supervisor:
        (child,) = supervisor.children
        (tmp_path / "worker.py").write_text("raise SystemExit('out of luck')")
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(ChildFailedError, match="out of luck"):
            await asyncio.wait_for(supervisor.run(), 20)


@pytest.mark.asyncio
async def test_one_that_never_gets_ready_is_an_error_that_says_what_it_answered(
    settings: Settings, tmp_path: Path, notes: list[str]
) -> None:
    spec = make_spec("server", tmp_path, status=503)
    timing = Timing(ready_s=0.5, grace_s=1.0)
    supervisor = Supervisor(Kafka(settings, None), [spec], notify=notes.append, policy=HASTY, timing=timing)
    with pytest.raises(NotReadyError, match=r"not ready within 0\.5 s .*answered (503|nothing)"):
        async with supervisor:
            pytest.fail("it was never ready")
    assert supervisor.children[0].pid is None


@pytest.mark.asyncio
async def test_one_that_ignores_sigterm_is_killed_after_the_grace(make: Make, tmp_path: Path, notes: list[str]) -> None:
    deaf = make_spec("worker", tmp_path, extra="signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    async with make(deaf) as supervisor:
        pid = supervisor.children[0].pid
    assert pid is not None
    assert not is_alive(pid)
    assert any("did not stop in 1 s: killed" in note for note in notes)


@pytest.mark.asyncio
async def test_warnings_in_the_logs_reach_the_terminal(make: Make, tmp_path: Path, notes: list[str]) -> None:
    extra = """
print('{"level": "info", "event": "all_well"}', flush=True)
print('{"level": "warning", "event": "disk_slow", "ms": 7, "timestamp": "2026-01-01"}', flush=True)
"""
    async with make(make_spec("worker", tmp_path, extra=extra)):
        await eventually(lambda: "worker: disk_slow ms=7" in notes, "the warning was not shown")
    assert not any("all_well" in note for note in notes)


SUPERVISING = """
import asyncio, sys
from pathlib import Path
import msgspec
from persona_stream.cli.supervisor import Kafka, Supervisor
from persona_stream.cli.child import ChildSpec
from persona_stream.vocabulary.config import Settings
async def main():
    kafka = Kafka(Settings.load(), None)
    specs = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=list[ChildSpec])
    async with Supervisor(kafka, specs, notify=print) as running:
        print(*(child.pid for child in running.children), flush=True)
        await running.run()
asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a stopped process is reached by prctl only")
def test_nothing_outlives_a_killed_supervisor_not_even_a_stopped_process(settings: Settings, tmp_path: Path) -> None:
    specs = [make_spec("worker", tmp_path), make_spec("server", tmp_path)]
    (tmp_path / "specs.json").write_bytes(msgspec.json.encode(specs))
    env = os.environ | {"PERSONA_KAFKA": settings.kafka, "PERSONA_NAMESPACE": settings.namespace}
    env["PERSONA_HOME"] = str(tmp_path)
    command = [sys.executable, "-c", SUPERVISING, str(tmp_path / "specs.json")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as supervisor:
        assert supervisor.stdout is not None
        pids = [int(pid) for pid in supervisor.stdout.readline().split()]
        assert len(pids) == 2
        os.kill(pids[0], signal.SIGSTOP)
        supervisor.kill()
    asyncio.run(eventually(lambda: not any(map(is_alive, pids)), "a process outlived its supervisor"))


def test_the_pipe_alone_ends_a_child_where_the_kernel_can_not() -> None:
    program = textwrap.dedent("""
        import sys, time
        sys.platform = "other"
        from persona_stream.cli.lifeline import tie_to_supervisor
        tie_to_supervisor()
        print("tied", flush=True)
        time.sleep(60)
    """)
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stdout.readline() == "tied\n"
    child.stdin.close()
    assert child.wait(10) == -signal.SIGTERM
    child.stdout.close()


def test_a_child_of_a_supervisor_that_died_first_ends_at_once() -> None:
    program = "from persona_stream.cli.lifeline import tie_to_supervisor as t; t(); import time; time.sleep(60)"
    done = subprocess.run([sys.executable, "-c", program], stdin=subprocess.DEVNULL, timeout=20, check=False)
    assert done.returncode != 0


def test_a_taken_http_port_gives_the_next_free_one_and_is_said(settings: Settings, notes: list[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        changed = with_free_ports(msgspec.structs.replace(settings, http_port=port), notes.append)
    assert changed.http_port > port
    assert is_free("127.0.0.1", changed.http_port)
    assert changed.worker_port
    assert f"port {port} is taken by another program: the server takes {changed.http_port}" in notes


def test_worker_and_server_get_the_settings_and_are_probed_where_they_listen(settings: Settings) -> None:
    chosen = msgspec.structs.replace(settings, http_host="::", http_port=81, worker_port=82)
    worker, server = child_specs(chosen)
    assert worker.ready_url == "http://127.0.0.1:82/readyz"
    assert server.ready_url == "http://127.0.0.1:81/readyz?verbose"
    assert Settings.load(env=server.env) == chosen


def test_a_broker_that_dies_comes_back_at_its_address_with_its_data(
    home: Path, jar_cache: Path, monkeypatch: pytest.MonkeyPatch, notes: list[str]
) -> None:
    monkeypatch.setenv("PERSONA_CACHE", str(jar_cache))

    async def kill_and_wait(kafka: Kafka) -> dict[str, int]:
        async with Supervisor(kafka, [], notify=notes.append):
            assert kafka.broker is not None
            assert kafka.broker.pid is not None
            os.kill(kafka.broker.pid, signal.SIGKILL)
            await eventually(lambda: bool(notes), "its death was not noticed")
            # Kafka takes a broker that was killed back only when its old session has expired: 9 s.
            await eventually(lambda: is_open(kafka.settings.kafka), "it is not back at its address", 40)
            return await partition_counts(kafka.settings)

    with embedded_kafka(Settings(home=home), lambda _: None) as kafka:
        topics = asyncio.run(kill_and_wait(kafka))
        assert kafka.broker is not None
        last = kafka.broker
    assert not last.is_alive
    assert "the broker ended; starting it again" in notes[0]
    assert topics[Topics(kafka.settings.namespace).events] == 4
