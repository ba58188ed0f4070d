"""What becomes of a Redis that refuses: tried again, said once, with what to do about it."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
import uvloop
from support.cluster import until
from support.redis_server import RedisServer
from support.tcp_proxy import HOST, TcpProxy

from persona_stream.cli.probe import any_free_port
from persona_stream.mirror import link as link_module
from persona_stream.mirror.hashes import HashWriter
from persona_stream.mirror.link import RedisLink
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import ConfigError, MirrorError
from tables.profiles import ProfileEntry, codec

PROFILE = codec.encode(ProfileEntry(traits={"name": "Ann"}))


async def write(url: str, patience_s: float = 0.3, keys: int = 1) -> None:
    settings = Settings(redis_url=url)
    link = RedisLink(settings, patience_s=patience_s)
    try:
        await HashWriter(settings, link).write("profiles", 0, {b"u%d" % n: (PROFILE, 1) for n in range(keys)})
    finally:
        await link.close()


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        (["--requirepass", "secret"], "the password in PERSONA_REDIS_URL"),
        (["--maxmemory", "1"], "raise its maxmemory"),
        (["--replicaof", "127.0.0.1", "1", "--replica-serve-stale-data", "yes"], "must name the primary"),
        (["--user", "default", "on", "nopass", "~*", "+@all", "-evalsha"], "Its user needs EVALSHA"),
        (["--cluster-enabled", "yes"], "a node of a cluster"),
    ],
)
async def test_a_refusal_says_what_to_do(tmp_path: Path, options: Sequence[str], advice: str) -> None:
    password = ":secret@" if "secret" in options else ""
    with RedisServer(tmp_path, *options, "--dir", str(tmp_path), password=password.strip(":@")) as server:
        with pytest.raises(MirrorError) as refused:
            await write(server.url)
        assert advice in str(refused.value)
        if password:
            await write(server.url.replace("redis://", f"redis://{password}"))


async def test_nobody_there_is_said_once_while_it_lasts(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(MirrorError, match="Is it running"):
        await write(f"redis://127.0.0.1:{any_free_port()}/0", patience_s=1.0)
    assert capsys.readouterr().out.count("Redis can't be written") == 1


def test_an_address_that_is_none_is_refused_at_once() -> None:
    for url in ("", "http://example.org", "redis://host:port"):
        with pytest.raises(ConfigError, match=r"(?i)redis"):
            RedisLink(Settings(redis_url=url))


async def test_a_way_too_narrow_for_a_pipeline_takes_smaller_ones(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "TIMEOUT_S", 1.0)
    # Its scripts are there.
    await write(redis.url)
    async with TcpProxy(redis.port) as proxy:
        # A pipeline of 250 calls is some 40 kB.
        proxy.rate_bytes_s = 10_000
        await asyncio.wait_for(write(f"redis://{HOST}:{proxy.port}/0", patience_s=60, keys=250), 60)


async def test_a_silent_redis_does_not_hang_the_mirror(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "TIMEOUT_S", 0.2)
    async with TcpProxy(redis.port) as proxy:
        proxy.stall()
        writing = asyncio.create_task(write(f"redis://{HOST}:{proxy.port}/0", patience_s=60))

        async def tried_again() -> bool:
            return proxy.accepted > 2

        await until(tried_again, within_s=20, what="new connections")
        proxy.flow()
        await asyncio.wait_for(writing, 20)


def test_a_connection_that_was_reset_while_nothing_was_asked_is_made_again(redis: RedisServer) -> None:
    async def ask_twice() -> None:
        async with TcpProxy(redis.port) as proxy:
            link = RedisLink(Settings(redis_url=f"redis://{HOST}:{proxy.port}/0"), patience_s=20)
            await link.ask([("PING",)])
            assert proxy.cut() == 1

            async def noticed() -> bool:
                return proxy.cut() == 0

            await until(noticed, within_s=5, what="the connection cut")
            assert await link.ask([("PING",)]) == ["PONG"]
            await link.close()

    # The mirror's own loop: it tells a closed connection otherwise than asyncio's.
    uvloop.run(ask_twice())
