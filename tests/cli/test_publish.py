"""Publishing lines: what is good arrives whole and in order, what is not is reported line by line."""

import asyncio
import gzip
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from aiokafka import ConsumerRecord

from persona_stream.cli.publish import (
    EVENTS,
    FIRST_REJECTS,
    ITEMS,
    PROFILES,
    Kind,
    PublishReport,
    publish_lines,
)
from persona_stream.kafka.writer import BatchWriter
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.topics import Topics

Run = Callable[..., subprocess.CompletedProcess[str]]
ReadAll = Callable[[str], list[ConsumerRecord]]

BAD_LINES = {
    b'{"id": "e", "type": "click", "user": "u1", "ts": 5}\n': "missing_item",
    b'{"id": 7, "type": "search", "user": "u1", "ts": 5}\n': "bad_field",
    b'{"type": "search", "user": "u1", "ts": 5}\n': "missing_field",
    b'{"id": "e", "type": "search", "user": "u1", "ts": "yesterday"}\n': "bad_ts",
    b'{"id": "e", "type": "search", "user": "u1", "ts": 5, "usr": 1}\n': "unknown_field",
    b"[]\n": "bad_shape",
    b'{"id": \n': "bad_json",
    b'{"id": "\xff", "type": "search", "user": "u1", "ts": 5}\n': "bad_encoding",
}


def good_line(number: int) -> bytes:
    return b'{"id":"e%d","type":"search","user":"u%d","ts":%d}\n' % (number, number % 7, 1000 + number)


def publish(settings: Settings, lines: Iterable[bytes], kind: Kind = EVENTS) -> PublishReport:
    async def run() -> PublishReport:
        writer = BatchWriter(settings, client_id="test")
        await writer.start()
        try:
            return await publish_lines(lines, writer, kind.topic(Topics(settings.namespace)), kind=kind)
        finally:
            await writer.stop()

    return asyncio.run(run())


def test_every_good_line_arrives_once_keyed_by_user_and_in_order(settings: Settings, read_all: ReadAll) -> None:
    count = 12_345
    report = publish(settings, map(good_line, range(count)))
    assert (report.lines, report.published, report.rejected_total) == (count, count, 0)
    records = read_all(Topics(settings.namespace).events)
    by_user: dict[bytes, list[int]] = {}
    for record in records:
        event = json.loads(record.value)
        assert record.key == event["user"].encode()
        by_user.setdefault(record.key, []).append(event["ts"])
    assert sum(map(len, by_user.values())) == count
    assert all(times == sorted(set(times)) for times in by_user.values())


def test_what_arrives_is_the_line_itself_stamped_by_the_broker(settings: Settings, read_all: ReadAll) -> None:
    before_ms = time.time_ns() // 1_000_000
    publish(settings, [good_line(1)])
    (record,) = read_all(Topics(settings.namespace).events)
    assert record.value == good_line(1).strip()
    assert record.timestamp_type == 1, "LogAppendTime"
    assert before_ms <= record.timestamp <= time.time_ns() // 1_000_000


def test_bad_lines_are_reported_by_line_and_reason_and_not_published(settings: Settings, read_all: ReadAll) -> None:
    lines = [line for number, bad in enumerate(BAD_LINES) for line in (good_line(number), bad)]
    report = publish(settings, lines)
    assert report.published == len(BAD_LINES)
    assert [(r.line, r.reason) for r in report.first_rejects] == [
        (2 * number, reason) for number, reason in enumerate(BAD_LINES.values(), 1)
    ]
    assert report.rejected == dict.fromkeys(BAD_LINES.values(), 1)
    assert len(read_all(Topics(settings.namespace).events)) == len(BAD_LINES)


def test_all_rejects_are_counted_though_only_the_first_are_kept(settings: Settings) -> None:
    report = publish(settings, [b"nope\n"] * 11_000)
    assert report.rejected == {"bad_json": 11_000}
    assert [r.line for r in report.first_rejects] == list(range(1, FIRST_REJECTS + 1))


def test_blank_lines_are_passed_over_but_numbered(settings: Settings) -> None:
    report = publish(settings, [b"\n", good_line(0), b"  \r\n", b"nope"])
    assert (report.lines, report.published, report.first_rejects[0].line) == (4, 1, 4)


@pytest.mark.parametrize(
    ("kind", "line", "key"),
    [
        (ITEMS, b'{"id": "i9", "ts": 5, "attributes": {"price": 9.5}}', b"i9"),
        (PROFILES, b'{"user": "u1", "ts": 5, "traits": {"age": "25-34"}}', b"u1"),
    ],
    ids=["items", "profiles"],
)
def test_items_and_profiles_go_to_their_topics_with_their_keys(
    settings: Settings, read_all: ReadAll, kind: Kind, line: bytes, key: bytes
) -> None:
    report = publish(settings, [line, b'{"id": "e", "type": "search", "user": "u1", "ts": 5}'], kind)
    assert report.rejected == {"unknown_field": 1}, "an event is no item and no profile"
    assert [(r.key, r.value) for r in read_all(kind.topic(Topics(settings.namespace)))] == [(key, line)]


def plain(lines: bytes) -> bytes:
    return lines


@pytest.mark.parametrize(("name", "write"), [("e.jsonl", plain), ("e.jsonl.gz", gzip.compress)])
def test_the_command_reads_files_by_their_suffix(
    settings: Settings,
    run: Run,
    read_all: ReadAll,
    tmp_path: Path,
    name: str,
    write: Callable[[bytes], bytes],
) -> None:
    path = tmp_path / name
    path.write_bytes(write(b"".join(map(good_line, range(100)))))
    done = run("publish", str(path), settings=settings)
    assert done.returncode == 0, done.stderr
    assert "published 100 events of 100 lines" in done.stdout
    assert len(read_all(Topics(settings.namespace).events)) == 100


def test_the_command_tells_rejected_lines_and_exits_with_1(settings: Settings, run: Run, tmp_path: Path) -> None:
    rejects = tmp_path / "rejects.jsonl"
    stdin = good_line(1).decode() + "nope\n" * 30
    done = run("publish", "-", "--rejects", str(rejects), settings=settings, stdin=stdin)
    assert done.returncode == 1
    assert "published 1 events of 31 lines" in done.stdout
    assert "rejected 30 lines" in done.stderr
    assert "line 2: bad_json" in done.stderr
    assert "line 22:" not in done.stderr, "only the first 20 are shown"
    written = [json.loads(line) for line in rejects.read_text().splitlines()]
    assert [row["line"] for row in written] == list(range(2, 32))
    assert written[0]["reason"] == "bad_json"
    assert written[0]["raw"] == "nope"


def test_rejects_can_be_tolerated(settings: Settings, run: Run) -> None:
    assert run("publish", "-", "--skip-rejects", settings=settings, stdin="nope\n").returncode == 0


def test_lines_of_a_pipe_are_published_as_they_come(settings: Settings, read_all: ReadAll, env: dict[str, str]) -> None:
    flags = ["--kafka", settings.kafka, "--namespace", settings.namespace]
    command = [sys.executable, "-m", "persona_stream", "publish", "-", *flags]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env) as process:
        assert process.stdin is not None
        process.stdin.write(good_line(1) + b'{"id":"half')
        process.stdin.flush()
        deadline_s = time.monotonic() + 20
        while not (found := read_all(Topics(settings.namespace).events)):
            assert time.monotonic() < deadline_s, "the line was held back until the pipe is closed"
        assert [record.value for record in found] == [good_line(1).strip()]
        process.stdin.write(b'","type":"search","user":"u1","ts":5}')
        process.stdin.close()
        assert process.wait(20) == 0
    assert len(read_all(Topics(settings.namespace).events)) == 2


def test_a_broken_gzip_file_is_a_clear_error(settings: Settings, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "cut.jsonl.gz"
    path.write_bytes(gzip.compress(b"".join(map(good_line, range(1000))))[:-20])
    done = run("publish", str(path), settings=settings)
    assert done.returncode == 1
    assert "can't be read to its end" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["missing.jsonl"], "missing.jsonl can't be read: No such file"),
        (["e.jsonl", "--rejects", "no/such/folder/file"], "--rejects no/such/folder/file can't be written"),
        (["e.jsonl", "--namespace", "elsewhere"], "topic elsewhere.events.v1 does not exist"),
        (["e.jsonl", "--kafka", "127.0.0.1:1"], "no Kafka broker answers at 127.0.0.1:1"),
    ],
    ids=["file", "rejects", "topic", "kafka"],
)
def test_what_can_not_work_is_one_readable_line(
    kafka: str, call: Run, settings: Settings, arguments: list[str], says: str
) -> None:
    done = call("publish", *arguments, PERSONA_KAFKA=kafka, PERSONA_NAMESPACE=settings.namespace)
    assert done.returncode == 1
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
