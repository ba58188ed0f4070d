"""The command line's root: the app, its groups, and what its commands share."""

from datetime import UTC, datetime

from cyclopts import App, Group, Parameter

from persona_stream.cli.flags import (
    AllFlags,
    BackfillFlags,
    FeatureFlags,
    Flags,
    MirrorFlags,
    ServeFlags,
    SkewFlags,
    TopicFlags,
    WorkerFlags,
)

RUN = Group("Run", sort_key=1)
DATA = Group("Data and models", sort_key=2)
OPERATE = Group("Operate", sort_key=3)

# No flag given.
NO_FLAGS, NO_TOPIC, NO_SERVE, NO_WORKER, NO_MIRROR = Flags(), TopicFlags(), ServeFlags(), WorkerFlags(), MirrorFlags()
NO_ALL, NO_FEATURES, NO_SKEW, NO_BACKFILL = AllFlags(), FeatureFlags(), SkewFlags(), BackfillFlags()


def epoch_ms(moment: datetime | None) -> int | None:
    """Epoch milliseconds of a time that was given as a flag: UTC unless it says."""
    if moment is None:
        return None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def _version() -> str:
    import importlib.metadata

    return importlib.metadata.version("persona-stream")


app = App(
    name="persona-stream",
    help="""Real-time personalization: one event log on Kafka, tables folded from it, models
that learn as it passes, answers in milliseconds.

First steps: `persona-stream demo` shows everything on real data;
`persona-stream up` starts an empty system for your own events.""",
    version=_version,
    help_flags=["--help", "-h"],
    # The default, Markdown, takes a fifth of a second to import.
    help_format="plaintext",
    default_parameter=Parameter(negative=()),
)
