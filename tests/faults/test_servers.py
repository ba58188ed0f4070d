"""Servers killed, paused and drained under requests: another answers all the while, and the one that comes back holds
what the tables hold.
"""

import asyncio
from collections import Counter
from itertools import cycle, islice

import pytest
from support.disturbed import assert_state_is_exact, load_for, under_load
from support.ledger import Ledger
from support.live import MakeLive, prepared
from support.questions import assert_replicas_equal_the_tables, get, questions, until_ready

from persona_stream.cli.probe import any_free_port

pytestmark = pytest.mark.faults

PAUSED_S = 10.0
"""Longer than any session timeout of ours, 8 s."""


async def test_servers_are_killed_paused_and_drained_while_another_answers(
    make_live: MakeLive, fault_cycles: int, ledger: Ledger
) -> None:
    namespace = await prepared(make_live)
    healthy, disturbed = any_free_port(), any_free_port()
    acts = list(islice(cycle(["kill", "pause", "drain"]), max(3, fault_cycles // 3)))
    async with under_load(namespace, load_for(3 * len(acts), seed=12)):
        namespace.start_worker()
        await namespace.until_goes_on()
        namespace.start_server(healthy)
        await until_ready(namespace, healthy)
        server = namespace.start_server(disturbed)
        await until_ready(namespace, disturbed)
        async with questions(healthy) as asked, questions(disturbed) as asked_too:
            for act in acts:
                if act == "pause":
                    server.pause()
                    await asyncio.sleep(PAUSED_S)
                    server.resume()
                else:
                    if act == "kill":
                        server.kill()
                    else:
                        assert await asyncio.to_thread(server.terminate) == 0
                    server = namespace.start_server(disturbed)
                await until_ready(namespace, disturbed)
                await namespace.until_goes_on()
                assert not asked.failed
            # The disturbed one was away, and is back.
            answered = asked_too.answered
            await namespace.until_goes_on()
            assert asked_too.answered > answered
    await namespace.until_applied()
    await assert_state_is_exact(namespace)
    await assert_replicas_equal_the_tables(namespace, [healthy, disturbed])
    assert asked.answered > 100 * len(acts)
    assert (await get(healthy, "/v1/users/nobody"))[0] == 404
    done = Counter(acts)
    ledger.add("one of two servers killed (SIGKILL) and started again", done["kill"])
    ledger.add("one of two servers paused (SIGSTOP) for longer than any session timeout", done["pause"])
    ledger.add("one of two servers drained (SIGTERM) and started again", done["drain"])
    ledger.add("a request to the server beside it: answered", asked.answered)
