"""Real processes of the product, started and killed by the tests."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from persona_stream.vocabulary.config import Settings

_REPOSITORY = Path(__file__).parents[2]
_LOG_TAIL_CHARS = 4000
TELL_S, POLL_S = 20.0, 0.05


class Process:
    """A process with its log in a file; `kill()` in a teardown, whatever happened."""

    def __init__(self, command: list[str], log: Path, env: Mapping[str, str]) -> None:
        self.log = log
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=log.parent,
                env={**_clean_env(), **env},
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def exit_code(self) -> int | None:
        """The exit code, None while it runs; the signal's number below zero where one ended it."""
        return self._process.poll()

    def check_alive(self) -> None:
        """Raise with the tail of the log if it has ended."""
        code = self.exit_code()
        assert code is None, f"the process ended with {code}:\n{self.log_tail()}"

    def log_tail(self) -> str:
        """What it said last."""
        return self.log.read_text(errors="replace")[-_LOG_TAIL_CHARS:]

    def peak_bytes(self) -> int:
        """The most memory it has had."""
        status = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        (peak,) = [line.split()[1] for line in status if line.startswith("VmHWM:")]
        return int(peak) * 1024

    def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        if self.exit_code() is None:
            self._process.kill()
        self._process.wait()

    def is_paused(self) -> bool:
        """Whether a SIGSTOP has stopped it."""
        return os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None

    def pause(self) -> None:
        """SIGSTOP."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._process.send_signal(signal.SIGCONT)

    def tell(self, text: str) -> None:
        """SIGUSR1, as modules of the tests understand it; returns when it has said `text`."""
        before = self.log.read_text(errors="replace").count(text)
        self._process.send_signal(signal.SIGUSR1)
        deadline_s = time.monotonic() + TELL_S
        while self.log.read_text(errors="replace").count(text) == before:
            self.check_alive()
            assert time.monotonic() < deadline_s, f"not within {TELL_S} s: {text}"
            time.sleep(POLL_S)

    def terminate(self, *, within_s: float = 40) -> int:
        """SIGTERM; returns the exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self.wait(within_s=within_s)

    def wait(self, *, within_s: float) -> int:
        """The exit code once it has ended."""
        try:
            return self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {within_s} s:\n{self.log_tail()}") from None


StartMirror = Callable[[Settings], Process]


def start_worker(settings: Settings, log: Path) -> Process:
    """`persona-stream worker`, as a user starts it."""
    return Process([sys.executable, "-m", "persona_stream", "worker"], log, settings_env(settings))


def start_server(settings: Settings, log: Path) -> Process:
    """`persona-stream serve`, as a user starts it."""
    return Process([sys.executable, "-m", "persona_stream", "serve"], log, settings_env(settings))


def start_mirror(settings: Settings, log: Path) -> Process:
    """`persona-stream mirror`, as a user starts it."""
    return Process([sys.executable, "-m", "persona_stream", "mirror"], log, settings_env(settings))


def start_module(module: str, settings: Settings, log: Path, *arguments: str) -> Process:
    """A module of the tests, with `settings` in its environment."""
    return Process([sys.executable, "-m", module, *arguments], log, settings_env(settings))


def settings_env(settings: Settings) -> dict[str, str]:
    """The environment that tells a process these settings."""
    return {
        "PERSONA_KAFKA": settings.kafka,
        "PERSONA_NAMESPACE": settings.namespace,
        "PERSONA_HOME": str(settings.home),
        "PERSONA_PARTITIONS": str(settings.partitions),
        "PERSONA_STALL_TIMEOUT_MS": str(settings.stall_timeout_ms),
        "PERSONA_WORKER_ID": settings.worker_id,
        "PERSONA_STORE": settings.store,
        "PERSONA_STORE_VALUES": str(settings.store_values),
        "PERSONA_WORKER_PORT": str(settings.worker_port),
        "PERSONA_HTTP_PORT": str(settings.http_port),
        "PERSONA_GENERATION": str(settings.generation),
        "PERSONA_FEATURES": str(settings.features or ""),
        "PERSONA_SESSION_GAP_MS": str(settings.session_gap_ms),
        "PERSONA_AUDIT_EVERY_MS": str(settings.audit_every_ms),
        "PERSONA_AUDIT_VALUES": str(settings.audit_values).lower(),
        "PERSONA_REDIS_URL": settings.redis_url,
        "PERSONA_REDIS_TTL_MS": str(settings.redis_ttl_ms),
        "PERSONA_MIRROR_PORT": str(settings.mirror_port),
        "PERSONA_SKEW_PORT": str(settings.skew_port),
    }


def _clean_env() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PERSONA_")}
    return {**kept, "PYTHONPATH": os.pathsep.join([str(_REPOSITORY), str(_REPOSITORY / "tests")])}
