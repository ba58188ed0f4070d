"""Being asked to stop: Ctrl-C raises KeyboardInterrupt and ends with exit code 130, SIGTERM is a good end."""

import asyncio
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def terminating() -> Iterator[None]:
    """Let SIGTERM unwind the stack as Ctrl-C does, so that everything is stopped in its order."""

    def leave(*_: object) -> None:
        raise SystemExit(0)

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def run_until_terminated(work: Coroutine[Any, Any, None]) -> int:
    """Run `work` in an event loop; SIGTERM cancels it and gives 0, Ctrl-C raises KeyboardInterrupt."""

    async def run() -> int:
        task = asyncio.ensure_future(work)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        try:
            await task
        except asyncio.CancelledError:
            current = asyncio.current_task()
            # Ctrl-C cancels this task as well, and asyncio.run then raises KeyboardInterrupt.
            if current is not None and current.cancelling():
                raise
        return 0

    return asyncio.run(run())
