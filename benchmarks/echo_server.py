"""The serving benchmark's yardstick: JSON in, the same JSON out, nothing else.

aiohttp on uvloop with orjson, one process, no access log: what an HTTP call costs on this machine before
any ranking is done. ``python -m benchmarks.echo_server --port 8099``; it prints its URL when it listens,
SIGTERM ends it.
"""

import argparse
import asyncio
import signal

import orjson
import uvloop
from aiohttp import web


async def echo(request: web.Request) -> web.Response:
    """Parse the body, encode it again."""
    body = orjson.dumps(orjson.loads(await request.read()))
    return web.Response(body=body, content_type="application/json")


async def serve(host: str, port: int) -> None:
    """Listen until SIGTERM or SIGINT; port 0 takes a free one, the URL is printed."""
    app = web.Application()
    app.router.add_post("/echo", echo)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, host, port)
    await site.start()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    print(f"http://{host}:{runner.addresses[0][1]}/echo", flush=True)
    await stop.wait()
    await runner.cleanup()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.echo_server")
    parser.add_argument("--port", type=int, default=8099)
    uvloop.run(serve("127.0.0.1", parser.parse_args().port))


if __name__ == "__main__":
    main()
