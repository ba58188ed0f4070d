"""The errors that persona-stream raises on purpose.

    PersonaError                 everything below
    ├── ConfigError              a setting is missing, unknown or malformed
    ├── EventError               a record that breaks the events contract (goes to the dead-letter topic)
    ├── BrokerStartError         the embedded broker did not come up
    ├── ModelError               a model that must not be served (parity, feature hash, unknown version)
    ├── PartitionLostError       a partition is another worker's by now
    ├── RecoveryError            a changelog can't be read to its end
    ├── GenerationError          a generation of tables that is not there, or must not be live
    ├── MirrorError              Redis can't be written
    ├── StoreError               a store on disk can't be opened, read or written
    └── StaleStateError          a caller's freshness bound can't be met

Each message says what was wrong and where; `hint` says what to do about it.
"""

from typing import ClassVar


class PersonaError(Exception):
    """Base of all errors raised on purpose; `code` is stable and safe to match on."""

    code: ClassVar[str] = "error"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()


class ConfigError(PersonaError):
    """A setting is missing, unknown or malformed."""

    code = "bad-config"


class BrokerStartError(PersonaError):
    """The embedded broker did not come up; the message ends with the tail of its log."""

    code = "broker-start"


class ModelError(PersonaError):
    """A model that must not be served: parity failed, features differ, or the version is unknown."""

    code = "bad-model"


class PartitionLostError(PersonaError):
    """Another worker has claimed a partition: what this one holds of it is out of date."""

    code = "partition-lost"


class RecoveryError(PersonaError):
    """A changelog can't be read to its end."""

    code = "recovery"


class GenerationError(PersonaError):
    """A generation of tables that is not there, or must not be live."""

    code = "generation"


class MirrorError(PersonaError):
    """Redis can't be written, and a command that must end has waited long enough."""

    code = "mirror"


class StoreError(PersonaError):
    """A store on disk can't be opened, read or written."""

    code = "store"


class StaleStateError(PersonaError):
    """A caller asked for fresher state than this replica has."""

    code = "stale-state"


class EventError(PersonaError):
    """A record that breaks the events contract.

    `reason` is one of `persona_stream.vocabulary.events.REASONS`: it labels the dead letter and its metric.
    """

    code = "bad-event"

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
