"""`persona-stream publish`: the publisher with a file before it and a progress bar beside it."""

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from aiokafka.errors import KafkaError
from msgspec import Struct
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from persona_stream.cli.cluster import require_topic
from persona_stream.cli.console import err, out, quiet_libraries
from persona_stream.cli.lines import is_stream, stdin_file, stream_chunks
from persona_stream.cli.publish import Kind, Publisher, PublishReport, Reject, publish_lines
from persona_stream.cli.rejects import print_rejects
from persona_stream.cli.running import connected
from persona_stream.history.text_files import InputError, LineFile, open_lines
from persona_stream.kafka.writer import BatchWriter
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import PersonaError
from persona_stream.vocabulary.topics import Topics

OnReject = Callable[[Reject], None]
OnProgress = Callable[[PublishReport], None]


class PublishError(PersonaError):
    """Kafka refused or vanished in the middle of a file."""

    code = "publish-failed"


class Publication(Struct, frozen=True):
    """What is published: `path` None is standard input."""

    path: Path | None
    kind: Kind
    rejects: Path | None


def run_publish(settings: Settings, publication: Publication, *, skip_rejects: bool) -> int:
    """Publish, print the report, and return the exit code: 1 where a line was rejected (0 if they may be)."""
    quiet_libraries()
    report = asyncio.run(_publish(connected(settings), publication))
    _print_report(report, publication)
    return 1 if report.rejected_total and not skip_rejects else 0


async def _publish(settings: Settings, publication: Publication) -> PublishReport:
    topic = publication.kind.topic(Topics(settings.namespace))
    await require_topic(settings, topic)
    writer = BatchWriter(settings, client_id="persona-publish")
    await writer.start()
    try:
        with _rejects_file(publication.rejects) as on_reject:
            return await _publish_input(publication, writer, topic, on_reject)
    finally:
        await writer.stop()


async def _publish_input(
    publication: Publication, writer: BatchWriter, topic: str, on_reject: OnReject
) -> PublishReport:
    if publication.path is not None:
        with open_lines(publication.path) as file:
            return await _publish_file(file, publication, writer, topic, on_reject)
    if is_stream(cast(BinaryIO, sys.stdin.buffer)):
        return await _publish_stream(publication, writer, topic, on_reject)
    return await _publish_file(stdin_file(), publication, writer, topic, on_reject)


async def _publish_file(
    file: LineFile, publication: Publication, writer: BatchWriter, topic: str, on_reject: OnReject
) -> PublishReport:
    latest = PublishReport()
    with _progress(file.size_bytes or None) as bar:

        def on_progress(report: PublishReport) -> None:
            nonlocal latest
            latest = report
            bar(report, file.position_bytes() if file.size_bytes else report.read_bytes)

        try:
            return await publish_lines(
                file.lines, writer, topic, on_progress, kind=publication.kind, on_reject=on_reject
            )
        except KafkaError as error:
            raise _failed(error, latest) from error


async def _publish_stream(
    publication: Publication, writer: BatchWriter, topic: str, on_reject: OnReject
) -> PublishReport:
    publisher = Publisher(writer, topic, kind=publication.kind, on_reject=on_reject)
    with _progress(None) as bar:
        try:
            async for chunk in stream_chunks(cast(BinaryIO, sys.stdin.buffer)):
                await publisher.take(chunk)
                bar(publisher.report, publisher.report.read_bytes)
        except KafkaError as error:
            raise _failed(error, publisher.report) from error
    return publisher.report


def _failed(error: KafkaError, report: PublishReport) -> PublishError:
    return PublishError(
        f"Kafka failed after {report.published:,} published lines: {type(error).__name__}: {error}.",
        hint="Publish the whole input again when Kafka is back: an event id that was seen changes nothing.",
    )


@contextmanager
def _progress(size_bytes: int | None) -> Iterator[Callable[[PublishReport, int], None]]:
    columns = (
        TextColumn("publishing"),
        BarColumn(),
        DownloadColumn(),
        TextColumn("{task.fields[lines]} lines"),
        TextColumn("{task.fields[rate]}/s"),
        TextColumn("[red]{task.fields[rejects]}"),
        TimeElapsedColumn() if size_bytes is None else TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, disable=not err.is_terminal, transient=True) as progress:
        task = progress.add_task("publish", total=size_bytes, lines="0", rate="0", rejects="")

        def update(report: PublishReport, done_bytes: int) -> None:
            rejects = f"{report.rejected_total:,} rejected" if report.rejected_total else ""
            progress.update(
                task,
                completed=done_bytes,
                lines=f"{report.lines:,}",
                rate=f"{report.lines_per_s:,.0f}",
                rejects=rejects,
            )

        yield update


@contextmanager
def _rejects_file(path: Path | None) -> Iterator[OnReject]:
    if path is None:
        yield lambda _: None
        return
    try:
        file = path.open("w", encoding="utf-8")
    except OSError as error:
        raise InputError(f"--rejects {path} can't be written: {error.strerror}.") from None
    with file:

        def write(reject: Reject) -> None:
            raw = reject.raw.decode(errors="backslashreplace")
            row = {"line": reject.line, "reason": reject.reason, "detail": reject.detail, "raw": raw}
            file.write(json.dumps(row) + "\n")

        yield write


def _print_report(report: PublishReport, publication: Publication) -> None:
    out.print(
        f"published {report.published:,} {publication.kind.name} of {report.lines:,} lines"
        f" in {report.elapsed_s:.1f} s ({report.lines_per_s:,.0f} lines/s)"
    )
    where = f"all are in {publication.rejects}" if publication.rejects else "--rejects FILE keeps all"
    print_rejects(report, rest=where)
