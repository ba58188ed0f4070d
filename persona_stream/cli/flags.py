"""Flags that several commands share; each one overrides the setting of the same name."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter

if TYPE_CHECKING:
    from persona_stream.vocabulary.config import Settings

_CONNECTION = Group("Settings (flags win over PERSONA_* variables, those over the file)", sort_key=100)


def _flag(text: str) -> Parameter:
    return Parameter(help=text, group=_CONNECTION, show_default=False)


class _Overrides:
    """Makes settings of the flags that a subclass has."""

    config: Path | None

    def load(self) -> "Settings":
        """The settings, these flags on top. Raises ConfigError, naming the setting and where it came from."""
        # Imported here: `--help` needs no settings.
        from persona_stream.vocabulary.config import Settings

        return Settings.load(self.overrides(), config_file=self.config)

    def overrides(self) -> dict[str, object]:
        """Settings given as flags, by name."""
        given = dict(vars(self))
        given.pop("config")
        return {name: value for name, value in given.items() if value is not None}


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class FeatureFlags(_Overrides):
    """Which catalogue of features, for commands that need no running system."""

    features: Annotated[
        Path | None, _flag("The catalogue of features, as PERSONA_FEATURES names one. [the shipped one]")
    ] = None
    config: Annotated[Path | None, _flag("A TOML file of settings, as PERSONA_CONFIG names one.")] = None


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Flags(_Overrides):
    """Where the system is."""

    kafka: Annotated[
        str | None, _flag("Kafka's bootstrap servers, host:port[,host:port]. Empty: the embedded broker.")
    ] = None
    namespace: Annotated[str | None, _flag("Prefix of every topic and consumer group. [persona]")] = None
    home: Annotated[Path | None, _flag("Folder of the embedded broker's data, downloads and logs. [.persona]")] = None
    config: Annotated[Path | None, _flag("A TOML file of settings, as PERSONA_CONFIG names one.")] = None


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class BackfillFlags(Flags):
    """Where the system is, and which catalogue of features its examples are of."""

    features: Annotated[
        Path | None, _flag("The catalogue of features, as PERSONA_FEATURES names one. [the shipped one]")
    ] = None


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TopicFlags(Flags):
    """Where the system is, and how its topics are created."""

    partitions: Annotated[int | None, _flag("Partitions of the topics that are created. [4]")] = None
    replication_factor: Annotated[int | None, _flag("Copies of each topic that is created. [1]")] = None


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ServeFlags(Flags):
    """Where the system is, and where it answers."""

    http_host: Annotated[str | None, _flag("Address to listen on; 0.0.0.0 for all. [127.0.0.1]")] = None
    http_port: Annotated[int | None, _flag("Port of the HTTP server. [8080]")] = None
    generation: Annotated[int | None, _flag("Answer from this generation, whatever is live; 0: the live one. [0]")] = (
        None
    )
    deadline_ms: Annotated[int | None, _flag("Default deadline of a ranking request, milliseconds. [50]")] = None


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class WorkerFlags(TopicFlags):
    """Where the system is, and how events are folded."""

    worker_port: Annotated[int | None, _flag("Port of the worker's own probes and /metrics; 0: none. [0]")] = None
    worker_id: Annotated[str | None, _flag("A name that only this worker has, and keeps over restarts. [none]")] = None
    stall_timeout_ms: Annotated[
        int | None, _flag("A worker that gets on with nothing for this long is not live. [60000]")
    ] = None
    allowed_lateness_ms: Annotated[
        int | None, _flag("Events older than the watermark by more go to the late topic. [3600000]")
    ] = None
    max_future_skew_ms: Annotated[
        int | None, _flag("Events stamped later than Kafka got them by more are dead letters. [300000]")
    ] = None
    session_gap_ms: Annotated[int | None, _flag("A session ends after this much event time. [1800000]")] = None
    attribution_window_ms: Annotated[
        int | None, _flag("A click counts for an impression at most this much older. [1800000]")
    ] = None


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class MirrorFlags(TopicFlags):
    """Where the system is, and how Redis is kept."""

    redis_url: Annotated[str | None, _flag("The Redis to write, redis://[user:password@]host:port/db. [none]")] = None
    redis_ttl_ms: Annotated[
        int | None, _flag("What was not written for this long is gone from Redis; 0: never. [604800000]")
    ] = None
    mirror_port: Annotated[int | None, _flag("Port of the mirror's own probes and /metrics; 0: none. [0]")] = None


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class SkewFlags(Flags):
    """Where the system is, by which features, and where a job answers."""

    features: Annotated[
        Path | None, _flag("The catalogue of features, as PERSONA_FEATURES names one. [the shipped one]")
    ] = None
    http_host: Annotated[str | None, _flag("Address to listen on; 0.0.0.0 for all. [127.0.0.1]")] = None
    skew_port: Annotated[int | None, _flag("With --every: port of its own probes and /metrics; 0: none. [0]")] = None


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class AllFlags(ServeFlags, WorkerFlags, MirrorFlags):
    """Every flag: for commands that start or show the whole system."""
