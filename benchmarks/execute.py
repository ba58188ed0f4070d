"""One run of one contender: a process of its own, bounded in time, checked against the oracle, cleaned up
after."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TypeVar

import msgspec
from aiokafka.admin import AIOKafkaAdminClient

from benchmarks.contract import Job, KeyedResult, Recovered, Report, WindowResult
from benchmarks.oracle import differences
from benchmarks.registry import Contender
from benchmarks.workloads import Workload

Answer = TypeVar("Answer", Report, Recovered)

ROOT = Path(__file__).resolve().parent.parent
LOG_TAIL_LINES = 4


class Run(msgspec.Struct):
    """What became of one run. ``problem`` is empty when it finished and its result is right."""

    contender: str
    workload: Workload
    events: int
    round: int
    versions: dict[str, str] = {}
    elapsed_s: float = 0.0
    events_per_s: float = 0.0
    learned: int = 0
    log_loss: float = 0.0
    note: str = ""
    problem: str = ""


class Assignment(msgspec.Struct, frozen=True):
    """A contender's next run: what to read where, and how long it may take."""

    contender: Contender
    workload: Workload
    events: int
    round: int
    bootstrap: str
    topic: str
    partitions: int
    timeout_s: float


def execute(task: Assignment, expected: KeyedResult | WindowResult) -> Run:
    """Run ``task`` and compare its result with ``expected``. Failures are in the answer, not raised."""
    run = Run(task.contender.name, task.workload, task.events, task.round)
    if not task.contender.exists:
        run.problem = f"no module benchmarks.{task.contender.module}"
        return run
    with tempfile.TemporaryDirectory(prefix="persona-bench-", ignore_cleanup_errors=True) as folder:
        run_id = f"bench-{task.contender.name}-{task.workload}-{Path(folder).name[-8:]}"
        state = Path(folder) / "state"
        state.mkdir()
        job = Job(task.workload, task.bootstrap, task.topic, task.events, task.partitions, run_id, str(state))
        try:
            report = in_own_process(task.contender.module, "run", job, Report, Path(folder), task.timeout_s)
        except RuntimeError as error:
            run.problem = str(error)
        else:
            _record(run, report, expected)
        asyncio.run(delete_topics(task.bootstrap, run_id))
    return run


def _record(run: Run, report: Report, expected: KeyedResult | WindowResult) -> None:
    run.elapsed_s = report.elapsed_s
    run.events_per_s = run.events / report.elapsed_s
    run.learned, run.log_loss, run.note = report.learned, report.log_loss, report.note
    run.versions = report.versions
    run.problem = "; ".join(differences(run.workload, run.events, report, expected))


def in_own_process(module: str, action: str, job: Job, kind: type[Answer], folder: Path, timeout_s: float) -> Answer:
    """Have a contender do something in a process of its own. Raises RuntimeError with its last words."""
    job_path, report_path, log_path = folder / "job.json", folder / "report.json", folder / "log.txt"
    job_path.write_bytes(msgspec.json.encode(job))
    report_path.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.contender", module, action, str(job_path), str(report_path)]
    with log_path.open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        try:
            status = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"timed out after {timeout_s:.0f} s; {_tail(log_path)}") from None
        finally:
            _end(process)
    if status or not report_path.exists():
        raise RuntimeError(f"exit status {status}; {_tail(log_path)}")
    return msgspec.json.decode(report_path.read_bytes(), type=kind)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _tail(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines()
    return "its last words: " + " | ".join(lines[-LOG_TAIL_LINES:]) if lines else "it printed nothing"


async def delete_topics(bootstrap: str, name_part: str) -> None:
    """Delete every topic whose name contains ``name_part``."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        names = [name for name in await admin.list_topics() if name_part in name]
        if names:
            await admin.delete_topics(names)
    finally:
        await admin.close()
