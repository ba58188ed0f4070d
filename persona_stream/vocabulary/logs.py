"""Logs: one format for our own lines and for those of libraries, JSON for machines or columns for a terminal.

Every line has `event`, `level`, `logger` and `timestamp` (UTC). Modules log through `structlog.get_logger(__name__)`
or the standard library's `logging`; both come out the same way.
"""

import logging
import sys
from collections.abc import Mapping
from typing import Any

import orjson
import structlog
from structlog.types import EventDict, Processor, WrappedLogger

from persona_stream.vocabulary.config import Settings

# They report each rebalance, fetch and reconnect as INFO: noise while all is well.
_NOISY = ("faust", "mode", "aiokafka", "kafka", "aiohttp", "asyncio")

_COORDINATOR_COMES = (14, 15)
"""Loading its groups, and not available: the client asks again."""


def configure_logging(settings: Settings) -> None:
    """Send the logs of this process to standard error, as JSON lines unless that is a terminal (`log_json`)."""
    as_json = settings.log_json if settings.log_json is not None else not sys.stderr.isatty()
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=_last_steps(as_json=as_json))
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("aiokafka.consumer.group_coordinator").addFilter(_lower_if_asked_again)


def _lower_if_asked_again(record: logging.LogRecord) -> bool:
    """A coordinator that is not there yet (the first group of a new cluster makes Kafka set it up) is no error."""
    if any(f"[Error {code}]" in record.getMessage() for code in _COORDINATOR_COMES):
        record.levelno, record.levelname = logging.INFO, "INFO"
    return True


def _last_steps(*, as_json: bool) -> list[Processor]:
    remove_meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    if not as_json:
        return [remove_meta, structlog.dev.ConsoleRenderer()]
    return [remove_meta, structlog.processors.format_exc_info, _to_json]


def _to_json(_logger: WrappedLogger, _method: str, entry: EventDict) -> str:
    return orjson.dumps(_event_first(entry), default=repr, option=orjson.OPT_NON_STR_KEYS).decode()


def _event_first(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {"event": entry.get("event", ""), **entry}
