"""The Lua scripts that compare and write a hash in one step. Each call names one key: Redis Cluster takes them as well.

Versions are compared as text, digit by digit: a Lua number would lose the low digits of a large offset. The same
version is written again: what it says is the same, and so a damaged hash is mended.
"""

from collections.abc import Sequence
from hashlib import sha1
from typing import NamedTuple

from persona_stream.mirror.layout import PARTS, Kind, Part, parts_of

_COMPARE = """
local function less(a, b)
  if #a ~= #b then return #a < #b end
  return a < b
end
-- Whether the version `held` is newer than the version `given`, both `turn:offset`.
local function newer(held, given)
  local ht, ho = string.match(held or '', '^(%d+):(%d+)$')
  if not ht then return false end
  local gt, go = string.match(given, '^(%d+):(%d+)$')
  if ht ~= gt then return less(gt, ht) end
  return less(go, ho)
end
"""


class Call(NamedTuple):
    """One call of a script."""

    sha: str
    key: str
    arguments: Sequence[str]


class Script:
    """A script, and the name that Redis gives it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = sha1(text.encode(), usedforsecurity=False).hexdigest()

    def call(self, key: str, *arguments: str) -> Call:
        """To be run on a key."""
        return Call(self.sha, key, arguments)


def _write(part: Part) -> Script:
    """KEYS: hash. ARGV: version, TTL in ms or 0, the fields' values. 1 if written, 0 if what is held is newer."""
    pairs = ", ".join(f"'{name}', ARGV[{at}]" for at, name in enumerate(part.fields, start=3))
    return Script(_changing(part, f"redis.call('HSET', KEYS[1], '{part.version_field}', ARGV[1], {pairs})"))


def _remove(part: Part) -> Script:
    """KEYS: hash. ARGV: version, TTL in ms or 0. The version stays: an older write must not bring the fields back."""
    names = ", ".join(f"'{name}'" for name in part.fields)
    return Script(
        _changing(
            part,
            f"redis.call('HDEL', KEYS[1], {names})\nredis.call('HSET', KEYS[1], '{part.version_field}', ARGV[1])",
        )
    )


def _changing(part: Part, change: str) -> str:
    return f"""{_COMPARE}
local held = redis.pcall('HGET', KEYS[1], '{part.version_field}')
if type(held) == 'table' then
  -- Something else than a hash stands where a hash belongs.
  redis.call('DEL', KEYS[1])
  held = false
end
if newer(held, ARGV[1]) then return 0 end
{change}
if ARGV[2] == '0' then redis.call('PERSIST', KEYS[1]) else redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 1
"""


def _drop(kind: Kind) -> Script:
    """KEYS: hash. ARGV: a version for each part. 1 and the hash is gone, unless one of its parts is newer: 0."""
    checks = "\n".join(
        f"if newer(redis.call('HGET', KEYS[1], '{part.version_field}'), ARGV[{at}]) then return 0 end"
        for at, part in enumerate(parts_of(kind), start=1)
    )
    return Script(f"""{_COMPARE}
if redis.call('TYPE', KEYS[1]).ok == 'hash' then
{checks}
end
redis.call('DEL', KEYS[1])
return 1
""")


ADVANCE = Script(
    f"""{_COMPARE}
-- KEYS: marks. ARGV: the id under which these marks were made, TTL in ms, then for each: name, mark before, mark now.
-- -1: these are not the marks that were made (Redis lost its data). -2: one is older than it was (Redis lost a part).
if redis.call('HGET', KEYS[1], 'id') ~= ARGV[1] then return -1 end
for at = 3, #ARGV, 3 do
  local held = redis.call('HGET', KEYS[1], ARGV[at])
  if ARGV[at + 1] ~= '' and newer(ARGV[at + 1], held or '0:0') then return -2 end
end
for at = 3, #ARGV, 3 do
  if not newer(redis.call('HGET', KEYS[1], ARGV[at]), ARGV[at + 2]) then
    redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 2])
  end
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
"""
)

WRITES = {part.table: _write(part) for part in PARTS}
REMOVALS = {part.table: _remove(part) for part in PARTS}
DROPS: dict[Kind, Script] = {"user": _drop("user"), "item": _drop("item")}
SCRIPTS = (*WRITES.values(), *REMOVALS.values(), *DROPS.values(), ADVANCE)
