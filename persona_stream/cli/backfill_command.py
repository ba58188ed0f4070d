"""`persona-stream backfill`: history, from files or a topic, through the folds of the stream into examples."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

from msgspec import Struct

from persona_stream.backfill import (
    WRITE_EVERY,
    Replay,
    read_events,
    share_of_sessions,
    write_examples,
)
from persona_stream.cli.cluster import reachable, require_topic
from persona_stream.cli.console import out, quiet_libraries
from persona_stream.cli.progress_bar import progress_bar
from persona_stream.cli.publish import PublishReport
from persona_stream.cli.rejects import good_rows
from persona_stream.cli.running import connected
from persona_stream.example_file import ExampleFile
from persona_stream.history.files import HistoryFile, Parsed
from persona_stream.history.kinds import EVENTS, ITEMS, PROFILES
from persona_stream.history.sorted_log import SortedLog
from persona_stream.kafka.writer import BatchWriter
from persona_stream.stream.garbage import collecting_little
from persona_stream.versions import (
    Version,
    Versions,
    item_version,
    profile_version,
    read_item_versions,
    read_profile_versions,
)
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import ConfigError
from persona_stream.vocabulary.messages import Example
from persona_stream.vocabulary.topics import Topics
from tables.feature_set import FeatureSet
from tables.features.plan import feature_set

Add = Callable[[Sequence[Example]], None]
"""Takes examples to where they go."""


class BackfillOptions(Struct, frozen=True, kw_only=True):
    """What becomes examples, and where they go. No `files`: a topic; no `out`: the examples topic."""

    files: list[Path]
    items: Path | None
    profiles: Path | None
    topic: str | None
    column_of: Mapping[str, str]
    out: Path | None
    sessions: int
    """About how many sessions candidates are asked for."""

    @property
    def uses_kafka(self) -> bool:
        """Whether anything is read from there, or written to it."""
        return not self.files or self.out is None


def columns_of(told: str) -> dict[str, str]:
    """Field -> column of `--map user=customer_id,item=sku`. Raises ConfigError."""
    pairs = [pair.partition("=") for pair in told.split(",") if pair]
    fields = [field.strip() for field, _, _ in pairs]
    wrong = [pair for pair, field in zip(pairs, fields, strict=True) if field not in EVENTS.fields or not pair[2]]
    if wrong or len(set(fields)) < len(fields):
        raise ConfigError(
            f"--map {told} does not name columns of fields.",
            hint=f"As in --map user=customer_id,item=sku; fields are {', '.join(EVENTS.fields)}, each once.",
        )
    return {field: column.strip() for field, (_, _, column) in zip(fields, pairs, strict=True)}


def run_backfill(settings: Settings, options: BackfillOptions, *, skip_rejects: bool) -> int:
    """Backfill, print what was made, and return the exit code: 1 where a row was rejected (0 if they may be)."""
    quiet_libraries()
    if options.files and options.topic:
        raise ConfigError("--topic and files are two histories.", hint="Give one.")
    if options.uses_kafka:
        settings = connected(settings)
    features, history = feature_set(settings), _History(options)
    made_file = nullcontext() if options.out is None else ExampleFile(options.out, features)
    with SortedLog() as log, made_file as file:
        if file is None:
            asyncio.run(require_topic(settings, Topics(settings.namespace).examples))
        history.read(log)
        asyncio.run(_Backfill(settings, options, features).run(log, history, file))
    return 1 if history.rejected and not skip_rejects else 0


class _History:
    """The files that were named, read before anything else."""

    def __init__(self, options: BackfillOptions) -> None:
        """Raises InputError where a file is of no known format."""
        self._events = [HistoryFile(path, EVENTS, options.column_of) for path in options.files]
        self._items = HistoryFile(options.items, ITEMS) if options.items is not None else None
        self._profiles = HistoryFile(options.profiles, PROFILES) if options.profiles is not None else None
        for file in (*self._events, self._items, self._profiles):
            if file is not None:
                file.check_format()
        self.items: list[Version] | None = None
        self.profiles: list[Version] | None = None
        """None: no file was named."""
        self.rejected = 0

    def read(self, log: SortedLog) -> None:
        """Read all files, events into the log; tells of what is left out. Raises InputError."""
        for source, file in enumerate(self._events):
            for place, (event, raw) in enumerate(self._rows(file)):
                log.add(event, raw, source, place)
        if self._items is not None:
            self.items = [item_version(item) for item, _ in self._rows(self._items)]
        if self._profiles is not None:
            self.profiles = [profile_version(profile) for profile, _ in self._rows(self._profiles)]

    def _rows(self, file: HistoryFile) -> Iterator[Parsed]:
        report = PublishReport()
        with progress_bar(f"reading {file.path.name}") as on_progress:
            yield from good_rows(file, report, on_progress)
        self.rejected += report.rejected_total


class _Backfill:
    """The way from a log to examples."""

    def __init__(self, settings: Settings, options: BackfillOptions, features: FeatureSet) -> None:
        self._settings = settings
        self._options = options
        self._features = features
        self._topics = Topics(settings.namespace)
        self._examples: Counter[str] = Counter()
        """Made so far, by origin."""
        self._rows = 0
        self._is_stopped = threading.Event()

    async def run(self, log: SortedLog, history: _History, file: ExampleFile | None) -> None:
        """Make the examples of a log, print how many, and put them into a file, or the topic where there is none."""
        async with reachable(self._settings):
            if not self._options.files:
                with progress_bar("reading the log") as on_progress:
                    topic = self._options.topic or self._topics.events
                    await read_events(self._settings, topic, log, on_progress)
            if not len(log):
                raise ConfigError("there is no event to make examples of.", hint="docs/concepts.md describes events.")
            versions = await self._versions(history)
            started_s = time.monotonic()
            if file is None:
                await self._to_topic(log, versions)
            else:
                await self._in_thread(log, versions, file.add)
                file.save()
        self._print(len(log), time.monotonic() - started_s)

    async def _versions(self, history: _History) -> Versions:
        items, profiles = history.items, history.profiles
        if self._options.uses_kafka:
            items = await read_item_versions(self._settings) if items is None else items
            profiles = await read_profile_versions(self._settings) if profiles is None else profiles
        return Versions([*(items or []), *(profiles or [])])

    async def _to_topic(self, log: SortedLog, versions: Versions) -> None:
        writer, loop = BatchWriter(self._settings, client_id="backfill"), asyncio.get_running_loop()
        waiting: list[Example] = []

        def flush() -> None:
            written = write_examples(self._settings, writer, waiting)
            asyncio.run_coroutine_threadsafe(written, loop).result()
            waiting.clear()

        def add(examples: Sequence[Example]) -> None:
            waiting.extend(examples)
            if len(waiting) >= WRITE_EVERY:
                flush()

        await writer.start()
        try:
            await self._in_thread(log, versions, add)
            await asyncio.to_thread(flush)
        finally:
            await writer.stop()

    async def _in_thread(self, log: SortedLog, versions: Versions, add: Add) -> None:
        try:
            with collecting_little():
                await asyncio.to_thread(self._fold, log, versions, add)
        except asyncio.CancelledError:
            # Ctrl-C: the thread would go on to the log's end.
            self._is_stopped.set()
            raise

    def _fold(self, log: SortedLog, versions: Versions, add: Add) -> None:
        def on_made(examples: Sequence[Example]) -> None:
            self._examples.update(example.origin for example in examples)
            self._rows += sum(len(example.items) for example in examples)
            add(examples)

        share = share_of_sessions(log, self._settings, self._options.sessions)
        replay = Replay(self._settings, versions, share=share, on_made=on_made)
        with progress_bar("folding events") as bar:

            def on_progress(done: int, total: int) -> None:
                if self._is_stopped.is_set():
                    raise KeyboardInterrupt
                bar(done, total)

            for asked in replay.run(log, on_progress):
                on_made([asked.example(self._features)])

    def _print(self, events: int, elapsed_s: float) -> None:
        out.print(f"folded {events:,} events in {elapsed_s:.1f} s ({events / max(elapsed_s, 1e-3):,.0f} events/s)")
        told = ", ".join(f"{count:,} {origin}" for origin, count in sorted(self._examples.items()))
        where = self._options.out or self._topics.examples
        out.print(
            f"{self._examples.total():,} examples ({told or 'none'}), {self._rows:,} rows of {self._features.width}"
            f" features, hash {self._features.hash}: {where}",
            markup=False,
        )
