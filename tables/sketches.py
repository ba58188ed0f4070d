"""How many different names there were, in 256 bytes: a HyperLogLog sketch (Flajolet et al. 2007).

A sketch keeps, for each of REGISTERS shares of all hashes, the rarest one seen. The same names in any order, any number
of times, leave the same bytes; two sketches merge by their greater registers. The estimate is off by 6.5 % (one
standard deviation), by less while there are few.
"""

from math import log

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

REGISTERS = 256
_INDEX_BITS = 8
_RAREST = 40
"""A higher register stands for more names than anyone has; up to here sums of its powers are exact in any order."""
_RAREST_BIT = 1 << (_RAREST - 1)
_ALPHA = 0.7213 / (1 + 1.079 / REGISTERS)
_POWERS = 2.0 ** -np.arange(_RAREST + 1)
_LOGS = np.array([0.0, *(REGISTERS * log(REGISTERS / zeros) for zeros in range(1, REGISTERS + 1))])
"""By how many registers are zero, the estimate where few names have come (linear counting)."""


_HASHES_KEPT = 1 << 17


class _Hashes(dict[str, int]):
    """Hashes of names, each worked out when it is first asked for: a look-up costs little more than half of
    `lru_cache`'s."""

    def __missing__(self, name: str) -> int:
        if len(self) >= _HASHES_KEPT:
            self.clear()
        digest = self[name] = xxh3_64_intdigest(name.encode())
        return digest


NAME_HASHES = _Hashes()
"""Name -> 64 bits that stand for it."""


def note(block: bytearray, start: int, digest: int) -> None:
    """Note a name, by 48 or more bits of its hash, in the sketch that begins at a byte of a block."""
    rest = digest >> _INDEX_BITS | _RAREST_BIT
    # How many zeros it ends with, and one.
    rarity = (rest & -rest).bit_length()
    at = start + (digest & (REGISTERS - 1))
    if block[at] < rarity:
        block[at] = rarity


def estimates(sketches: NDArray[np.uint8]) -> NDArray[np.float64]:
    """About how many names each sketch was told: uint8 `[n, REGISTERS]` to float64 `[n]`.

    >>> block = bytearray(REGISTERS)
    >>> for name in ["a", "b", "a", "c"]:
    ...     note(block, 0, NAME_HASHES[name])
    >>> estimates(np.frombuffer(block, dtype=np.uint8)[None]).round(2).tolist()
    [3.02]
    """
    raw = _ALPHA * REGISTERS**2 / _POWERS[sketches].sum(axis=1)
    zeros = np.count_nonzero(sketches == 0, axis=1)
    found: NDArray[np.float64] = np.where((raw <= 2.5 * REGISTERS) & (zeros > 0), _LOGS[zeros], raw)
    return found
