"""One supervised process: started, restarted when it dies, stopped in good order."""

import asyncio
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from persona_stream.cli.logs import rolled, tail
from persona_stream.vocabulary.errors import PersonaError


class ChildFailedError(PersonaError):
    """A supervised process keeps dying; the message ends with the tail of its log."""

    code = "child-failed"


class ChildSpec(Struct, frozen=True, kw_only=True):
    """What to run. `ready_url` answers 200 once it can work."""

    name: str
    arguments: tuple[str, ...]
    """Of the Python interpreter."""
    env: dict[str, str]
    ready_url: str


class RestartPolicy(Struct, frozen=True, kw_only=True):
    """How often and how soon a dead process is started again.

    A death within `quick_s` of its start is a quick one; the delay doubles with each in a row, from
    `first_delay_s` to `longest_delay_s`, and after `quick_deaths` of them nothing more is tried.
    """

    quick_s: float = 10.0
    quick_deaths: int = 5
    first_delay_s: float = 0.5
    longest_delay_s: float = 8.0

    def delay_s(self, quick_deaths: int) -> float:
        """The wait before the next start.

        >>> [RestartPolicy().delay_s(n) for n in (0, 1, 2, 3, 9)]
        [0.5, 0.5, 1.0, 2.0, 8.0]
        """
        return min(self.longest_delay_s, self.first_delay_s * 2.0 ** max(0, quick_deaths - 1))


class Child:
    """Keeps one process running, in a session of its own, its output in `log_path`.

    `notify` gets a line for the terminal whenever it died. The process finds its supervisor at its standard
    input (see `lifeline`).
    """

    def __init__(
        self, spec: ChildSpec, log_path: Path, *, policy: RestartPolicy, notify: Callable[[str], None]
    ) -> None:
        """Nothing runs yet: await `keep_running` in a task."""
        self.spec = spec
        self.log_path = log_path
        self.restarts = 0
        self._policy = policy
        self._notify = notify
        self._process: Process | None = None
        self._stopping = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """Its process id, None while it does not run."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def keep_running(self) -> None:
        """Run it until `stop` is called. Raises ChildFailedError where it keeps dying soon."""
        quick_deaths = 0
        while not self._stopping.is_set():
            started_s = time.monotonic()
            self._process = await self._spawn()
            code = await self._process.wait()
            if self._stopping.is_set():
                return
            quick_deaths = quick_deaths + 1 if time.monotonic() - started_s < self._policy.quick_s else 0
            if quick_deaths >= self._policy.quick_deaths:
                raise self._failed(code, quick_deaths)
            delay_s = self._policy.delay_s(quick_deaths)
            self._notify(f"{self.spec.name} ended ({ending(code)}); starting it again. Log: {self.log_path}")
            self.restarts += 1
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay_s)

    async def stop(self, grace_s: float) -> None:
        """SIGTERM, then SIGKILL for it and what it started after `grace_s`; returns when it is gone."""
        self._stopping.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), grace_s)
        except TimeoutError:
            self._notify(f"{self.spec.name} did not stop in {grace_s:g} s: killed. Log: {self.log_path}")
            self.kill()
            await process.wait()

    def kill(self) -> None:
        """SIGKILL, for it and what it started."""
        if self.pid is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    async def _spawn(self) -> Process:
        with rolled(self.log_path).open("ab") as log:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                *self.spec.arguments,
                env=self.spec.env,
                stdin=PIPE,
                stdout=log,
                stderr=STDOUT,
                # Ctrl-C in the terminal is for the supervisor, which then stops things in their order.
                start_new_session=True,
            )

    def _failed(self, code: int, deaths: int) -> ChildFailedError:
        return ChildFailedError(
            f"the {self.spec.name} died {deaths} times in a row soon after its start ({ending(code)}).\n"
            f"Log: {self.log_path}\n{tail(self.log_path)}\n",
            hint="`persona-stream doctor` checks what it needs.",
        )


def ending(code: int) -> str:
    """An exit code as people say it.

    >>> ending(1), ending(-9)
    ('exit code 1', 'signal SIGKILL')
    """
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
