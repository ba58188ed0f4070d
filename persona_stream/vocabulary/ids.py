"""Ids of decisions. They tell when they were made, so that one is found in the log without reading all of it."""

import secrets
import uuid

_RANDOM_BITS = 74
_HIGH_MASK, _LOW_MASK = (1 << 12) - 1, (1 << 62) - 1


def new_id(ts_ms: int) -> str:
    """An id made at a wall time: a UUID of version 7 (RFC 9562) in hex, 74 bits of it random."""
    noise = secrets.randbits(_RANDOM_BITS)
    return f"{ts_ms << 80 | 7 << 76 | (noise >> 62 & _HIGH_MASK) << 64 | 2 << 62 | noise & _LOW_MASK:032x}"


def made_ms(decision_id: str) -> int | None:
    """When an id was made, epoch milliseconds; None where it does not tell.

    >>> made_ms(new_id(1_700_000_000_123))
    1700000000123
    >>> made_ms("d5a4af6a5e774ec2909fbe541f830d59") is None
    True
    """
    try:
        parsed = uuid.UUID(decision_id)
    except ValueError:
        return None
    return parsed.int >> 80 if parsed.version == 7 else None
