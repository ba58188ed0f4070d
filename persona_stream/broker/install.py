"""Bring the broker's jars into a cache folder, each verified against its pinned checksum."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import structlog

from persona_stream.broker.jars import Jar, kafka_version, read_lock
from persona_stream.broker.progress import OnProgress, Progress, ignore_progress

_THREADS = 6  # enough to hide the round trips of 46 small files, few enough to be a polite client

_log = structlog.get_logger(__name__)


def install(cache_dir: Path, on_progress: OnProgress = ignore_progress) -> list[Path]:
    """The broker's class path below `cache_dir`, downloading what is missing or damaged.

    Every jar is verified on every call (43 MB, tens of milliseconds), so a jar that was tampered with is
    never run. Raises `BrokerStartError` when one cannot be had.
    """
    jars = read_lock()
    folder = cache_dir / f"kafka-{kafka_version(jars)}"
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(_THREADS) as pool:
        intact = pool.map(lambda jar: jar.is_intact(folder), jars)
        missing = [jar for jar, is_intact in zip(jars, intact, strict=True) if not is_intact]
        if missing:
            _fetch(missing, folder, pool, on_progress)
    return [folder / jar.filename for jar in jars]


def _fetch(jars: list[Jar], folder: Path, pool: ThreadPoolExecutor, on_progress: OnProgress) -> None:
    # Imported here because jgo takes half a second to import and only a first start needs it.
    from persona_stream.broker.download import download

    for jar in jars:
        if (folder / jar.filename).exists():
            _log.warning("jar_damaged", jar=jar.coordinate, action="downloading it again")
    meter = _Meter(sum(jar.size_bytes for jar in jars), on_progress)
    futures = [pool.submit(download, jar, folder, meter.add) for jar in jars]
    try:
        for future in futures:
            future.result()
    finally:
        for future in futures:
            future.cancel()


class _Meter:
    """Adds up the bytes of several downloads and reports the sum."""

    def __init__(self, total_bytes: int, on_progress: OnProgress) -> None:
        self._lock = threading.Lock()
        self._done_bytes = 0
        self._total_bytes = total_bytes
        self._on_progress = on_progress
        self.add(0)

    def add(self, count_bytes: int) -> None:
        with self._lock:
            self._done_bytes += count_bytes
            self._on_progress(Progress("install", self._done_bytes, self._total_bytes))
