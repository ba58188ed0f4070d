"""The embedded broker: a real single-node Kafka that belongs to this process."""

import base64
import shutil
import time
import uuid
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Self

from persona_stream.broker.failure import StartLogs, exit_reason
from persona_stream.broker.guarded import GuardedProcess
from persona_stream.broker.home_lock import HomeLock
from persona_stream.broker.install import install
from persona_stream.broker.ports import free_ports
from persona_stream.broker.progress import OnProgress, Progress, ignore_progress
from persona_stream.broker.ready import cluster_id_at
from persona_stream.broker.settings import DATA, LOGS, TMP, java_command, server_properties
from persona_stream.vocabulary.errors import BrokerStartError

_PROPERTIES = "server.properties"
_PORT_ATTEMPTS = 3
_POLL_S = 0.02


class EmbeddedBroker:
    """A single KRaft node below `home`, listening on 127.0.0.1 only.

    | below `home` | holds |
    | --- | --- |
    | `kafka/data` | topics and metadata, kept across restarts |
    | `kafka/logs` | `kafka.log` (rolled, 40 MB at most) and `console.log` (what Java prints) |
    | `cache` | the verified jars, unless `cache_dir` names a folder to share |

    The Kafka process ends with this one, however that ends (see `guard.py`).
    """

    def __init__(
        self,
        home: Path,
        port: int = 9092,
        *,
        cache_dir: Path | None = None,
        heap_mb: int = 512,
        start_timeout_s: float = 60.0,
    ) -> None:
        """Nothing is touched before `start`.

        `port` is a wish: another one is taken when it is in use. `heap_mb` bounds Java's heap in MiB (the
        process is about 220 MB when idle). A start that takes longer than `start_timeout_s` is an error.
        """
        self._folder = home.resolve() / "kafka"
        self._cache_dir = (cache_dir or home / "cache").resolve()
        self._wished_port = port
        self._port = 0
        self._heap_mb = heap_mb
        self._start_timeout_s = start_timeout_s
        self._process: GuardedProcess | None = None

    def start(self, on_progress: OnProgress = ignore_progress) -> str:
        """Install, format and start what is not yet; returns `bootstrap` once Kafka answers.

        Blocks for about 2 s, on a first start for the download as well. Raises `BrokerStartError` when the
        folder is in use, a jar cannot be had, or Kafka does not come up (with the tail of its log).
        """
        if self.is_alive:
            return self.bootstrap
        try:
            self._start(on_progress)
        except OSError as error:
            self.stop()
            raise BrokerStartError(
                f"The embedded broker could not use its files: {error}.",
                hint=f"Make {self._folder} and {self._cache_dir} writable and leave them 1 GB of space, "
                "or set PERSONA_HOME to another folder.",
            ) from error
        except BaseException:
            self.stop()
            raise
        return self.bootstrap

    def stop(self) -> None:
        """End Kafka in good order and wait until it is gone; does nothing when it does not run."""
        if self._process is not None:
            self._process.stop()
            self._process = None

    def __enter__(self) -> Self:
        """Start it without reporting progress."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it."""
        self.stop()

    @property
    def bootstrap(self) -> str:
        """`127.0.0.1:PORT` for clients; the port is the wished one or, when that was taken, another."""
        return f"127.0.0.1:{self._port}"

    @property
    def is_alive(self) -> bool:
        """Whether the Kafka process runs."""
        return self._process is not None and self._process.is_alive

    @property
    def pid(self) -> int | None:
        """Process id of Kafka's Java, None when it does not run."""
        return self._process.pid if self._process is not None and self._process.is_alive else None

    @property
    def log_path(self) -> Path:
        """Kafka's own log."""
        return self._folder / LOGS / "kafka.log"

    @property
    def _console(self) -> Path:
        return self._folder / LOGS / "console.log"

    @property
    def _meta_properties(self) -> Path:
        return self._folder / DATA / "meta.properties"

    def _start(self, on_progress: OnProgress) -> None:
        class_path = install(self._cache_dir, on_progress)
        self._folder.mkdir(parents=True, exist_ok=True)
        # Once Kafka runs, its process holds the lock, and gives it up when its files are closed.
        with closing(HomeLock(self._folder)) as lock:
            # Native libraries that a killed Java had unpacked.
            shutil.rmtree(self._folder / TMP, ignore_errors=True)
            for name in (DATA, LOGS, TMP):
                (self._folder / name).mkdir(exist_ok=True)
            self._console.write_bytes(b"")
            logs = StartLogs(self._folder, self.log_path, self._console)
            for _ in range(_PORT_ATTEMPTS):
                if self._launch(class_path, lock, logs, on_progress):
                    return
            raise logs.error(f"Kafka lost its port to another process {_PORT_ATTEMPTS} times.")

    def _launch(self, class_path: Sequence[Path], lock: HomeLock, logs: StartLogs, on_progress: OnProgress) -> bool:
        """Whether Kafka is up; False when another process was quicker to take its port."""
        self._port, controller_port = free_ports(self._wished_port)
        properties = server_properties(self._port, controller_port)
        (self._folder / _PROPERTIES).write_text(properties, encoding="latin-1")
        if not self._meta_properties.exists():
            on_progress(Progress("format"))
            self._format(class_path, lock, logs)
        on_progress(Progress("start"))
        self._process = self._run(class_path, lock, "kafka.Kafka", _PROPERTIES)
        lock.note_owner(self._process.pid)
        exit_code = self._await_ready(self._process, logs)
        if exit_code is None:
            return True
        self.stop()
        if logs.says_port_taken():
            return False
        raise logs.error(f"Kafka ended while it was starting ({exit_reason(exit_code)}).")

    def _format(self, class_path: Sequence[Path], lock: HomeLock, logs: StartLogs) -> None:
        """Give a fresh folder its cluster id; `meta.properties` comes last, so it marks a whole format."""
        arguments = ("format", f"--cluster-id={_new_cluster_id()}", "--config", _PROPERTIES)
        self._process = self._run(class_path, lock, "kafka.tools.StorageTool", *arguments)
        exit_code = self._process.wait(self._start_timeout_s)
        self.stop()
        if exit_code is None:
            raise logs.error(f"Formatting took longer than {self._start_timeout_s:g} s.")
        if exit_code != 0:
            raise logs.error(f"The data folder could not be formatted ({exit_reason(exit_code)}).")

    def _run(self, class_path: Sequence[Path], lock: HomeLock, main_class: str, *arguments: str) -> GuardedProcess:
        command = java_command(class_path, main_class, *arguments, heap_mb=self._heap_mb)
        return GuardedProcess(command, cwd=self._folder, console=self._console, lock_fd=lock.fd)

    def _await_ready(self, process: GuardedProcess, logs: StartLogs) -> int | None:
        """None once Kafka answers with this folder's cluster id, its exit code when it ends before that."""
        cluster_id = _cluster_id_in(self._meta_properties)
        deadline_s = time.monotonic() + self._start_timeout_s
        while time.monotonic() < deadline_s:
            exit_code = process.wait(_POLL_S)
            if exit_code is not None:
                return exit_code
            if cluster_id_at(self._port) == cluster_id:
                return None
        raise logs.error(f"Kafka did not answer within {self._start_timeout_s:g} s.")


def _new_cluster_id() -> str:
    """A random id in Kafka's form: 16 bytes as 22 URL-safe characters."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")


def _cluster_id_in(meta_properties: Path) -> str:
    """The cluster id that a formatted folder records; empty when the file is damaged."""
    lines = meta_properties.read_text(encoding="latin-1").splitlines()
    return next((line.partition("=")[2] for line in lines if line.startswith("cluster.id=")), "")
