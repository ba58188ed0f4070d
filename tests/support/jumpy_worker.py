"""A real worker whose wall clock jumps: ``python -m support.jumpy_worker``. Each second it is a day ahead, or a day
behind, in turn.
"""

import time

DAY_S = 86_400
_time, _time_ns = time.time, time.time_ns


def _jump_s() -> int:
    return DAY_S if int(time.monotonic()) % 2 else -DAY_S


if __name__ == "__main__":
    # Before anything else is imported: many import the functions themselves.
    time.time = lambda: _time() + _jump_s()
    time.time_ns = lambda: _time_ns() + 1_000_000_000 * _jump_s()

    from persona_stream.vocabulary.config import Settings
    from persona_stream.worker.run import run_worker

    run_worker(Settings.load())
