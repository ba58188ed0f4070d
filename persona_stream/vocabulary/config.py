"""Settings: `PERSONA_*` environment variables over a TOML file over defaults; command-line flags win over all.

    >>> Settings.load(env={"PERSONA_HTTP_PORT": "9000"}).http_port
    9000
    >>> Settings.load(env={"PERSONA_HTTP_PROT": "9000"})
    Traceback (most recent call last):
    ...
    persona_stream.vocabulary.errors.ConfigError: unknown setting PERSONA_HTTP_PROT. Did you mean PERSONA_HTTP_PORT? \
`persona-stream config` lists all.
"""

import difflib
import os
import ssl
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from persona_stream.vocabulary.errors import ConfigError

PREFIX = "PERSONA_"
# Read by the test suite and by CI, not settings of the product.
NOT_SETTINGS = frozenset({"PERSONA_CONFIG", "PERSONA_CACHE"})

Port = Annotated[int, Meta(ge=0, le=65535)]
Positive = Annotated[int, Meta(gt=0)]
NotNegative = Annotated[int, Meta(ge=0)]


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every setting, its default and its unit. `PERSONA_` + the upper-case name is its environment variable."""

    kafka: str = ""
    """Bootstrap servers, `host:port[,host:port]`. Empty: the embedded broker."""
    kafka_security_protocol: str = "PLAINTEXT"
    """PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL."""
    kafka_sasl_mechanism: str = "PLAIN"
    """PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512."""
    kafka_sasl_username: str = ""
    """With a SASL protocol: the user."""
    kafka_sasl_password: str = ""
    """With a SASL protocol: the password."""
    kafka_ssl_cafile: str = ""
    """With an SSL protocol: the authority's certificate (PEM); empty: the system's."""
    kafka_ssl_certfile: str = ""
    """With an SSL protocol: the client's certificate (PEM), where the cluster asks for one."""
    kafka_ssl_keyfile: str = ""
    """The client certificate's key (PEM), where it is not in the same file."""
    redis_url: str = ""
    """Where the mirror writes profiles and features for other services: `redis://[user:password@]host:port/db`, or
    `rediss://` for TLS. Empty: no mirror."""
    redis_ttl_ms: NotNegative = 604_800_000
    """A user or an item that was not written for this long is gone from Redis; 0: never."""
    home: Path = Path(".persona")
    """Where the embedded broker keeps its data, workers their stores, and the downloads cache."""
    store: Literal["memory", "rocksdb"] = "memory"
    """Where a worker keeps its tables: `memory`, or `rocksdb`: on disk, below `PERSONA_HOME`."""
    store_values: Positive = 10_000
    """With `rocksdb`: how many values of each table's partition stay in memory, those changed last."""
    http_host: str = "127.0.0.1"
    """The address that server and worker listen on; 0.0.0.0: all. There is no login: put a gateway in front."""
    http_port: Port = 8080
    """The server's port."""
    worker_port: Port = 0
    """The worker's own `/livez`, `/readyz` and `/metrics`; 0: not served."""
    mirror_port: Port = 0
    """The mirror's own `/livez`, `/readyz` and `/metrics`; 0: not served."""
    skew_port: Port = 0
    """The `/livez`, `/healthz` and `/metrics` of a skew check that runs as a job; 0: not served."""
    worker_id: Annotated[str, Meta(pattern="^[A-Za-z0-9._-]{0,200}$")] = ""
    """A name that only this worker has, and keeps: restarted within seconds it has its partitions again at once, while
    others wait for it (Kafka's static membership). Empty: no name."""
    namespace: Annotated[str, Meta(pattern="^[a-z0-9][a-z0-9_-]{0,63}$")] = "persona"
    """Prefix of every topic and consumer group."""
    partitions: Positive = 4
    """Partitions of the topics that `up`, `worker` and `topics` create. Fixed once they exist."""
    replication_factor: Positive = 1
    """Copies of each topic that is created; 3 on a cluster that must outlive a broker."""
    stall_timeout_ms: Positive = 60_000
    """A worker that has work and gets on with none of it for this long is not live; in recovery it ends."""
    allowed_lateness_ms: NotNegative = 3_600_000
    """An event older than its partition's watermark by more than this goes to the late topic."""
    max_future_skew_ms: NotNegative = 300_000
    """An event stamped later than its own Kafka timestamp by more than this is a dead letter."""
    features: Path | None = None
    """The catalogue of features, a TOML file: the same for workers and servers. Empty: the shipped one."""
    session_gap_ms: Positive = 1_800_000
    """A session ends after this much event time without an event."""
    attribution_window_ms: Positive = 1_800_000
    """A click counts for an impression at most this much older."""
    segment_field: str = "segment"
    """The key in an event's `context` that names the user's segment (trending is kept by segment)."""
    generation: NotNegative = 0
    """The generation that a server answers from, whatever is live; it then logs no decisions. 0: the live one."""
    deadline_ms: Positive = 50
    """The default deadline of a ranking request."""
    audit_every_ms: NotNegative = 300_000
    """How often a worker audits a sample of its keys in the background; 0: never."""
    audit_values: bool = False
    """Whether worker and server show an audit the values that differ, rather than their digests alone: whoever reaches
    the port can ask for any key."""
    log_json: bool | None = None
    """JSON logs; unset: JSON unless standard error is a terminal."""

    @classmethod
    def load(
        cls,
        overrides: Mapping[str, Any] | None = None,
        *,
        env: Mapping[str, str] | None = None,
        config_file: Path | None = None,
    ) -> "Settings":
        """Merge the TOML file, the environment and `overrides` (flags; None means not given).

        Raises ConfigError, naming the setting and where it came from.
        """
        env = os.environ if env is None else env
        file = config_file or (Path(env["PERSONA_CONFIG"]) if env.get("PERSONA_CONFIG") else None)
        merged: dict[str, Any] = {**_from_file(file), **_from_env(env)}
        merged.update({k: v for k, v in (overrides or {}).items() if v is not None})
        try:
            return msgspec.convert(merged, cls, strict=False, dec_hook=_decode_path)
        except msgspec.ValidationError as error:
            raise ConfigError(f"bad setting: {error}.", hint="`persona-stream config` lists all.") from None

    def bootstrap(self) -> str:
        """The bootstrap servers. Raises ConfigError where neither a cluster nor a running broker is known."""
        if not self.kafka:
            raise ConfigError("no Kafka cluster is known.", hint="Set PERSONA_KAFKA, or use `persona-stream up`.")
        return self.kafka

    def kafka_client(self) -> dict[str, Any]:
        """Keyword arguments for every aiokafka client: where the cluster is and how to log in."""
        common: dict[str, Any] = {
            "bootstrap_servers": self.bootstrap(),
            "security_protocol": self.kafka_security_protocol,
        }
        if "SASL" in self.kafka_security_protocol:
            common |= {
                "sasl_mechanism": self.kafka_sasl_mechanism,
                "sasl_plain_username": self.kafka_sasl_username,
                "sasl_plain_password": self.kafka_sasl_password,
            }
        if "SSL" in self.kafka_security_protocol:
            common["ssl_context"] = self.ssl_context()
        return common

    def ssl_context(self) -> ssl.SSLContext:
        """The TLS context for Kafka; raises ConfigError where a certificate can't be read."""
        try:
            context = ssl.create_default_context(cafile=self.kafka_ssl_cafile or None)
            if self.kafka_ssl_certfile:
                context.load_cert_chain(self.kafka_ssl_certfile, self.kafka_ssl_keyfile or None)
        except OSError as error:
            raise ConfigError(f"Kafka TLS files can't be loaded: {error}.", hint="See PERSONA_KAFKA_SSL_*.") from error
        return context


def _decode_path(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str | Path):
        return Path(value)
    raise NotImplementedError(f"settings hold no {kind.__name__}")


def _from_file(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"settings file {path}: {error}.", hint="It is named by PERSONA_CONFIG.") from error


def _from_env(env: Mapping[str, str]) -> dict[str, str]:
    known = {PREFIX + name.upper(): name for name in Settings.__struct_fields__}
    found: dict[str, str] = {}
    for variable, value in env.items():
        if not variable.startswith(PREFIX) or variable in NOT_SETTINGS:
            continue
        if variable not in known:
            near = difflib.get_close_matches(variable, known, n=1)
            guess = f" Did you mean {near[0]}?" if near else ""
            raise ConfigError(f"unknown setting {variable}.{guess}", hint="`persona-stream config` lists all.")
        if value != "" or known[variable] in {"kafka", "redis_url"}:
            found[known[variable]] = value
    return found
