"""The server as a process: it says why it can't listen, and drains when told to stop."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from http_servers import WAIT_S, free_port, settings_for

from persona_stream.vocabulary.config import Settings

BODY = b'{"user": "u1", "items": ["a", "b"]}'


def command(settings: Settings, port: int) -> tuple[list[str], dict[str, str]]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("PERSONA_")}
    env |= {
        "PERSONA_KAFKA": settings.kafka,
        "PERSONA_NAMESPACE": settings.namespace,
        "PERSONA_HOME": str(settings.home),
        "PERSONA_HTTP_PORT": str(port),
    }
    return [sys.executable, "-m", "persona_stream", "serve"], env


@contextmanager
def process(settings: Settings, port: int) -> Iterator[subprocess.Popen[bytes]]:
    arguments, env = command(settings, port)
    with subprocess.Popen(arguments, env=env, stderr=subprocess.PIPE) as running:
        try:
            yield running
        finally:
            running.kill()


def status(port: int, path: str) -> tuple[int, str]:
    """Status and text of a GET; 0 where nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def wait_for(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline_s, "it did not happen in time"
        time.sleep(0.05)


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        arguments, env = command(settings_for("127.0.0.1:1", tmp_path), port)
        done = subprocess.run(arguments, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert f"port {port} of 127.0.0.1 is in use" in done.stderr
    assert "PERSONA_HTTP_PORT" in done.stderr
    assert "Traceback" not in done.stderr


def test_sigterm_is_noticed_by_probes_and_waits_for_requests(kafka: str, tmp_path: Path) -> None:
    port = free_port()
    with process(settings_for(kafka, tmp_path), port) as running:
        wait_for(lambda: status(port, "/readyz")[0] == 200)
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            head = b"POST /v1/rank HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(BODY)
            client.sendall(head + BODY[:5])
            # Answered by the same event loop, so the request above has reached its handler by then.
            assert status(port, "/livez")[0] == 200
            running.send_signal(signal.SIGTERM)
            wait_for(lambda: status(port, "/readyz") == (503, "not ready: draining\n"))
            wait_for(lambda: status(port, "/livez")[0] == 0)
            client.sendall(BODY[5:])
            answer = b"".join(iter(lambda: client.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert b'"fallback":"unknown-user"' in answer
        assert running.wait(timeout=WAIT_S) == 0


def test_without_probes_sigterm_stops_at_once_even_with_kafka_away(tmp_path: Path) -> None:
    port = free_port()
    with process(settings_for(f"127.0.0.1:{free_port()}", tmp_path), port) as running:
        wait_for(lambda: status(port, "/readyz?verbose")[0] == 503)
        told_s = time.monotonic()
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=WAIT_S) == 0
        assert time.monotonic() - told_s < 3.0
