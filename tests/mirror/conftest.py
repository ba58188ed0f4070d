"""What the mirror's tests share: a client of a real Redis, and a namespace for each test."""

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
import redis.asyncio as aioredis
from support.redis_server import RedisServer

from persona_stream.mirror.hashes import HashWriter
from persona_stream.mirror.link import RedisLink
from persona_stream.vocabulary.config import Settings


@pytest.fixture
def namespace() -> str:
    return f"m{uuid4().hex[:8]}"


@pytest.fixture
def settings(redis: RedisServer, namespace: str) -> Settings:
    return Settings(redis_url=redis.url, namespace=namespace)


@pytest.fixture
async def client(redis: RedisServer) -> AsyncIterator["aioredis.Redis"]:
    async with redis.client() as made:
        yield made


@pytest.fixture
async def link(settings: Settings) -> AsyncIterator[RedisLink]:
    made = RedisLink(settings)
    yield made
    await made.close()


@pytest.fixture
def writer(settings: Settings, link: RedisLink) -> HashWriter:
    return HashWriter(settings, link)
