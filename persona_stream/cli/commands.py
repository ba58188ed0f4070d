"""The command line, all of it. Each command imports what it runs only when run: `--help` stays quick."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Group, Parameter

from persona_stream.cli.flags import AllFlags, Flags, MirrorFlags, ServeFlags, TopicFlags, WorkerFlags

if TYPE_CHECKING:
    from persona_stream.cli.dlq import Wanted

_RUN = Group("Run", sort_key=1)
_DATA = Group("Data and models", sort_key=2)
_OPERATE = Group("Operate", sort_key=3)
ModelName = Annotated[str, Parameter(help="The model's name in the registry.")]
_MODEL = "ranker"

# No flag given.
_FLAGS, _TOPIC, _SERVE, _WORKER, _ALL = Flags(), TopicFlags(), ServeFlags(), WorkerFlags(), AllFlags()
_MIRROR = MirrorFlags()


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
models = App(name="models", help="The versions of rankers, and which one is served.", group=_DATA, sort_key=3)
app.command(models)
dlq = App(name="dlq", help="Dead letters: records that could not be used, and why.", group=_OPERATE, sort_key=4)
app.command(dlq)

Reasons = Annotated[list[str] | None, Parameter(name="--reason", help="Only of this reason; may be repeated.")]
Since = Annotated[datetime | None, Parameter(help="Only those put aside at or after this time (UTC unless it says).")]
Until = Annotated[datetime | None, Parameter(help="Only those put aside before this time.")]

Supervised = Annotated[bool, Parameter(show=False, help="End with the process behind standard input.")]


@app.command(group=_RUN, sort_key=1)
def up(*, flags: AllFlags = _ALL) -> int:
    """Start broker, worker and server, supervised; Ctrl-C stops all.

    Without --kafka (or PERSONA_KAFKA) a real Kafka broker is downloaded on the
    first start (43 MB) and run from the home folder, where its data is kept.
    Prints where everything is, and how to publish and ask.
    """
    from persona_stream.cli.up import run_up

    return run_up(flags.load())


@app.command(group=_RUN, sort_key=2)
def demo(
    *,
    events: Annotated[int | None, Parameter(help="About how many events: whole histories of some households.")] = None,
    once: Annotated[bool, Parameter(help="Exit when done, rather than keep serving.")] = False,
    flags: AllFlags = _ALL,
) -> int:
    """Do what `up` does with a year of real shopping: stream it, train a ranker, show answers."""
    from persona_stream.cli.demo import run_demo

    return run_demo(flags.load(), events=events, once=once)


@app.command(group=_RUN, sort_key=3)
def worker(*, supervised: Supervised = False, flags: WorkerFlags = _WORKER) -> int:
    """Fold events into tables. Start one a core, up to the number of partitions; SIGTERM drains it."""
    _tie(supervised)
    from persona_stream.cli.roles import run_worker

    return run_worker(flags.load())


@app.command(group=_RUN, sort_key=4)
def serve(*, supervised: Supervised = False, flags: ServeFlags = _SERVE) -> int:
    """Answer requests from replicas of the tables. Start as many as traffic asks; SIGTERM drains it."""
    _tie(supervised)
    from persona_stream.cli.roles import run_serve

    return run_serve(flags.load())


@app.command(group=_RUN, sort_key=5)
def mirror(
    *,
    rebuild: Annotated[bool, Parameter(help="Write everything again, remove what no table has, and end.")] = False,
    supervised: Supervised = False,
    flags: MirrorFlags = _MIRROR,
) -> int:
    """Keep profiles and features in Redis for other services (PERSONA_REDIS_URL); SIGTERM ends it.

    Any number may run; --rebuild may run beside them. A Redis that is slow or
    away makes the mirror late and nothing else.
    """
    _tie(supervised)
    if rebuild:
        from persona_stream.cli.mirror_command import run_rebuild

        return run_rebuild(flags.load())
    from persona_stream.cli.roles import run_mirror

    return run_mirror(flags.load())


@app.command(group=_RUN, sort_key=6)
def broker(
    *,
    port: Annotated[int, Parameter(help="Another one is taken where it is in use.")] = 9092,
    flags: Flags = _FLAGS,
) -> int:
    """Run the embedded Kafka broker alone, for this machine only (127.0.0.1).

    Other commands of the same home folder find it by themselves. The first
    start downloads Kafka (43 MB); data is kept in the home folder.
    """
    from persona_stream.cli.roles import run_broker

    return run_broker(flags.load(), port=port)


@app.command(group=_DATA, sort_key=1)
def publish(
    file: Annotated[
        str, Parameter(allow_leading_hyphen=True, help="JSON lines, gzipped if it ends in .gz; - for a pipe.")
    ],
    /,
    *,
    topic: Annotated[
        Literal["events", "items", "profiles"], Parameter(help="What the lines are, and so where they go.")
    ] = "events",
    rejects: Annotated[Path | None, Parameter(help="Write the rejected lines and their reasons here.")] = None,
    skip_rejects: Annotated[bool, Parameter(help="Exit with 0 even if lines were rejected.")] = False,
    flags: Flags = _FLAGS,
) -> int:
    """Publish JSON lines to Kafka, keyed and checked as the contract says.

    A line that breaks the contract is not published; how many and why is
    reported, and the exit code is 1. Publishing a file again is safe: an event
    id that was seen changes nothing.
    """
    from persona_stream.cli.publish import KINDS
    from persona_stream.cli.publish_command import Publication, run_publish

    path = None if file == "-" else Path(file)
    return run_publish(flags.load(), Publication(path, KINDS[topic], rejects), skip_rejects=skip_rejects)


@app.command(group=_DATA, sort_key=2)
def train(
    *,
    name: ModelName = _MODEL,
    origin: Annotated[
        Literal["online", "decision", "backfill"] | None,
        Parameter(help="Train on examples of this origin only."),
    ] = None,
    backfill: Annotated[
        bool, Parameter(help="Replay the event log first, and make examples of the sessions in it.")
    ] = False,
    seed: Annotated[int, Parameter(help="The same examples and seed give the same model.")] = 1,
    promote: Annotated[
        bool | None,
        Parameter(negative="--no-promote", help="Serve it, or not. [if it beats the simple rules on later time]"),
    ] = None,
    flags: Flags = _FLAGS,
) -> int:
    """Train a ranker on the logged examples, judge it on later time, publish it, serve it if better.

    LambdaRank by LightGBM, exported to ONNX. The last fifth of time is held out:
    the ranker is compared on it with popularity and personal frequency.
    """
    from persona_stream.cli.train_command import TrainOptions, run_train

    return run_train(
        flags.load(), TrainOptions(name=name, origin=origin, seed=seed, promote=promote, backfill=backfill)
    )


@models.command(name="list")
def models_list(*, flags: Flags = _FLAGS) -> int:
    """Every version with its age, size and measures; the live one is marked."""
    from persona_stream.cli.models_command import run_list

    return run_list(flags.load())


@models.command
def promote(
    version: Annotated[str, Parameter(help="As `models list` names it.")],
    /,
    *,
    name: ModelName = _MODEL,
    flags: Flags = _FLAGS,
) -> int:
    """Serve VERSION from now on; it is loaded and checked first."""
    from persona_stream.cli.models_command import run_promote

    return run_promote(flags.load(), name, version)


@models.command
def rollback(*, name: ModelName = _MODEL, flags: Flags = _FLAGS) -> int:
    """Serve the version that was live before the present one."""
    from persona_stream.cli.models_command import run_rollback

    return run_rollback(flags.load(), name)


@app.command(group=_OPERATE, sort_key=6)
def rebuild(
    *,
    table: Annotated[list[str] | None, Parameter(help="Only this table; may be repeated.")] = None,
    until: Annotated[datetime | None, Parameter(help="The state as of this time (UTC unless it says).")] = None,
    lateness_ms: Annotated[int | None, Parameter(help="Fold events that were too late by at most this.")] = None,
    switch: Annotated[int | None, Parameter(help="Build nothing: make this generation live.")] = None,
    no_switch: Annotated[bool, Parameter(help="Build and verify only.")] = False,
    accept: Annotated[bool, Parameter(help="Make it live though keys differ: a fold was changed on purpose.")] = False,
    rollback: Annotated[bool, Parameter(help="Build nothing: make live what was before.")] = False,
    list_: Annotated[bool, Parameter(name="--list", help="Build nothing: show all generations.")] = False,
    drop: Annotated[int | None, Parameter(help="Build nothing: delete this generation's topics.")] = None,
    flags: Flags = _FLAGS,
) -> int:
    """Fold the topics again into new tables beside the live ones, compare, and switch over.

    Workers and servers go on meanwhile, and follow the switch without a failed
    request. What was live before is kept for --rollback. Where keys differ,
    they are named, nothing is switched and the exit code is 1.
    """
    from persona_stream.cli import rebuild_command as command

    if list_:
        return command.run_rebuild_list(flags.load())
    if rollback:
        return command.run_rollback(flags.load())
    if switch is not None:
        return command.run_switch(flags.load(), switch)
    if drop is not None:
        return command.run_drop(flags.load(), drop)
    options = command.RebuildOptions(
        tables=tuple(table or ()),
        until_ms=_epoch_ms(until) or 0,
        lateness_ms=lateness_ms,
        switch=not no_switch,
        accept=accept,
    )
    return command.run_rebuild(flags.load(), options)


@app.command(group=_OPERATE, sort_key=1)
def doctor(*, flags: AllFlags = _ALL) -> int:
    """Check that everything is there, and say what to do about what is not; exits with 1 on a failure."""
    from persona_stream.cli.doctor import run_doctor

    return run_doctor(flags.load())


@app.command(group=_OPERATE, sort_key=2)
def topics(
    *,
    create: Annotated[bool, Parameter(help="Create those that are missing.")] = False,
    flags: TopicFlags = _TOPIC,
) -> int:
    """Show the system's topics, their partitions and end offsets; exits with 1 if one does not fit."""
    from persona_stream.cli.topics_command import run_topics

    return run_topics(flags.load(), create=create)


@app.command(group=_OPERATE, sort_key=3)
def config(*, flags: AllFlags = _ALL) -> int:
    """Every setting, its value and where that came from; as TOML where the output is no terminal."""
    from persona_stream.cli.config_view import show_config

    show_config(flags.load(), flags.overrides(), flags.config)
    return 0


@app.command(group=_OPERATE, sort_key=5)
def audit(
    *,
    table: Annotated[list[str] | None, Parameter(help="Only this table; may be repeated.")] = None,
    server: Annotated[list[str] | None, Parameter(help="URL of a server to compare; may be repeated.")] = None,
    worker: Annotated[list[str] | None, Parameter(help="URL of a worker's own port; may be repeated.")] = None,
    redis: Annotated[
        bool | None, Parameter(negative="--no-redis", help="Compare Redis, or not. [if PERSONA_REDIS_URL is set]")
    ] = None,
    limit: Annotated[int, Parameter(help="How many keys that differ are shown.")] = 20,
    json: Annotated[bool, Parameter(help="Print one JSON document.")] = False,
    flags: WorkerFlags = _WORKER,
) -> int:
    """Prove the tables: fold their source topics again, and compare every key.

    Compares what changelogs hold with that, and what workers, servers and Redis
    hold with the changelogs: by default those of this home's `up`. All go on
    meanwhile.
    Names each key that differs with the fields on both sides, and exits 1 if
    there is any.
    """
    from persona_stream.cli.audit_command import AuditOptions, run_audit

    return run_audit(flags.load(), AuditOptions(table or [], server or [], worker or [], limit, json, redis))


@app.command(group=_OPERATE, sort_key=6)
def explain(
    decision_id: Annotated[str, Parameter(help="As an answer named it.")],
    /,
    *,
    user: Annotated[str | None, Parameter(help="Of this user: only one partition is looked through.")] = None,
    as_json: Annotated[bool, Parameter(name="--json", help="Everything, for a program.")] = False,
    flags: Flags = _FLAGS,
) -> int:
    """Why an answer was what it was, from the log; exits with 1 if today's code gives another.

    Puts the state together again that the answer was made on, however long ago,
    and asks again: the user then, the items' features, models, rules, scores.
    """
    from persona_stream.cli.explain_command import run_explain

    return run_explain(flags.load(), decision_id, user=user, as_json=as_json)


@dlq.command(name="list")
def dlq_list(
    *,
    reason: Reasons = None,
    since: Since = None,
    until: Until = None,
    late: Annotated[bool, Parameter(help="Events that came too late, rather than dead letters.")] = False,
    flags: Flags = _FLAGS,
) -> int:
    """How many are open by topic and reason, when they came, and one of each."""
    from persona_stream.cli.dlq_command import run_list

    return run_list(flags.load(), _wanted(reason, since, until), late=late)


@dlq.command
def show(
    origin: Annotated[str, Parameter(help="As `dlq list` names it: TOPIC/PARTITION/OFFSET.")],
    /,
    *,
    flags: Flags = _FLAGS,
) -> int:
    """One letter whole: why it was put aside, its key, headers and bytes."""
    from persona_stream.cli.dlq_command import run_show

    return run_show(flags.load(), origin)


@dlq.command
def replay(
    *,
    reason: Reasons = None,
    origin: Annotated[list[str] | None, Parameter(help="Only this letter; may be repeated.")] = None,
    since: Since = None,
    until: Until = None,
    rekey: Annotated[bool, Parameter(help="Give the right key to letters whose key was missing or wrong.")] = False,
    dry_run: Annotated[bool, Parameter(help="Only say how many.")] = False,
    flags: Flags = _FLAGS,
) -> int:
    """Publish letters again, as they were, to the topic they came from.

    Once: what was published again is no longer open. What still can't be used
    comes back as a new letter.
    """
    from persona_stream.cli.dlq_command import run_replay

    return run_replay(flags.load(), _wanted(reason, since, until, origin), rekey=rekey, dry_run=dry_run)


def _wanted(
    reason: list[str] | None, since: datetime | None, until: datetime | None, origin: list[str] | None = None
) -> "Wanted":
    from persona_stream.cli.dlq import Wanted

    return Wanted(frozenset(reason or ()), frozenset(origin or ()), _epoch_ms(since), _epoch_ms(until))


def _epoch_ms(moment: datetime | None) -> int | None:
    if moment is None:
        return None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def _tie(supervised: bool) -> None:
    if supervised:
        from persona_stream.cli.lifeline import tie_to_supervisor

        tie_to_supervisor()
