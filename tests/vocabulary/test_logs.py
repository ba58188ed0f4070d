"""Logs come out as one format, whoever wrote them."""

import json
import subprocess
import sys

PROGRAM = """
import logging, structlog
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.logs import configure_logging

log = structlog.get_logger("ours")
configure_logging(Settings({setting}))
log.info("started", port=8080)
logging.getLogger("theirs").warning("slow: %d ms", 7)
logging.getLogger("aiokafka.consumer").info("noise")
coordinator = logging.getLogger("aiokafka.consumer.group_coordinator")
coordinator.error("Group Coordinator Request failed: %s", "[Error 15] not available")
coordinator.error("Group Coordinator Request failed: %s", "[Error 30] not authorized")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("broke", path={{1: b"x"}})
"""


def logged(setting: str) -> list[str]:
    program = PROGRAM.format(setting=setting)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_lines_are_json_where_standard_error_is_no_terminal() -> None:
    ours, theirs, coming, refused, broke = map(json.loads, logged(""))
    # What is asked again and comes is no error; what is refused is.
    assert (coming["level"], refused["level"]) == ("info", "error")
    assert (ours["event"], ours["level"], ours["logger"], ours["port"]) == ("started", "info", "ours", 8080)
    assert (theirs["event"], theirs["level"], theirs["logger"]) == ("slow: 7 ms", "warning", "theirs")
    assert broke["exception"].endswith("ZeroDivisionError: division by zero")
    assert all(entry["timestamp"].endswith("Z") for entry in (ours, theirs, broke))


def test_lines_are_for_people_where_that_is_asked_for() -> None:
    lines = logged("log_json=False")
    assert "started" in lines[0]
    assert "port" in lines[0]
    assert any("ZeroDivisionError" in line for line in lines)
    assert not any(line.startswith("{") for line in lines)
