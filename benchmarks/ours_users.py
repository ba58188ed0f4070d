"""The real users table folded by a worker, in memory or on disk, as ``PERSONA_STORE`` says."""

import os
import resource
import sys

import msgspec
import uvloop

from agents.emissions import Emissions
from benchmarks.contract import Job, KeyedResult, Recovered, Report, Stopwatch
from benchmarks.ours_persona import Seen, settings_of, until_applied, until_recovered
from persona_stream.kafka.admin import ensure_topics
from persona_stream.stream.garbage import let_state_stay
from persona_stream.stream.partition import Partition
from persona_stream.stream.slices import Slice
from persona_stream.vocabulary import metrics
from persona_stream.worker.app import Fold, WorkerApp, agent_specs, build_app
from persona_stream.worker.run import SWITCH_S
from tables.users import UserState

DISTRIBUTIONS = ("persona-stream", "rocksdict")


class _Watched:
    """The users' fold, with a look at what it is given."""

    def __init__(self, fold: Fold, seen: Seen) -> None:
        self._fold, self._seen = fold, seen

    def process(self, part: Slice, users: Partition[UserState]) -> Emissions:
        self._seen.add(part)
        return self._fold.process(part, users)


def run(job: Job) -> Report:
    """Fold the job's topic."""
    watch = Stopwatch()
    seen = Seen(watch)
    uvloop.run(_run(_worker(job, seen), seen, watch, job.events))
    return Report(watch.elapsed_s, KeyedResult(), memory_bytes=_peak_bytes())


async def _run(app: WorkerApp, seen: Seen, watch: Stopwatch, records: int) -> None:
    await ensure_topics(app.settings)
    (app.settings.home / "worker").mkdir(parents=True, exist_ok=True)
    await until_applied(app, seen, watch, records)


def recover(job: Job) -> Recovered:
    """Start a worker on what `run` left, until it is ready."""
    uvloop.run(until_recovered(_worker(job, Seen(Stopwatch()))))
    seconds, records = metrics.RECOVERY_SECONDS._value.get(), metrics.RECOVERED_RECORDS._value.get()
    return Recovered(seconds, int(records), memory_bytes=_peak_bytes())


def _worker(job: Job, seen: Seen) -> WorkerApp:
    let_state_stay()
    sys.setswitchinterval(SWITCH_S)
    settings = msgspec.structs.replace(settings_of(job), store=os.environ["PERSONA_STORE"])
    users = agent_specs(settings, with_examples=False)[0]
    return build_app(settings, [msgspec.structs.replace(users, source=job.topic, fold=_Watched(users.fold, seen))])


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
