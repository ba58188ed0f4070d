"""Commands for operators: proof, repair and questions."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from persona_stream.cli.flags import AllFlags, Flags, SkewFlags, TopicFlags, WorkerFlags
from persona_stream.cli.root import NO_ALL, NO_FLAGS, NO_SKEW, NO_TOPIC, NO_WORKER, OPERATE, app, epoch_ms

if TYPE_CHECKING:
    from persona_stream.cli.dlq import Wanted

dlq = App(name="dlq", help="Dead letters: records that could not be used, and why.", group=OPERATE, sort_key=4)
app.command(dlq)

Reasons = Annotated[list[str] | None, Parameter(name="--reason", help="Only of this reason; may be repeated.")]
Since = Annotated[datetime | None, Parameter(help="Only those put aside at or after this time (UTC unless it says).")]
Until = Annotated[datetime | None, Parameter(help="Only those put aside before this time.")]


@app.command(group=OPERATE, sort_key=6)
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
    flags: Flags = NO_FLAGS,
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
        until_ms=epoch_ms(until) or 0,
        lateness_ms=lateness_ms,
        switch=not no_switch,
        accept=accept,
    )
    return command.run_rebuild(flags.load(), options)


@app.command(group=OPERATE, sort_key=1)
def doctor(*, flags: AllFlags = NO_ALL) -> int:
    """Check that everything is there, and say what to do about what is not; exits with 1 on a failure."""
    from persona_stream.cli.doctor import run_doctor

    return run_doctor(flags.load())


@app.command(group=OPERATE, sort_key=2)
def topics(
    *,
    create: Annotated[bool, Parameter(help="Create those that are missing.")] = False,
    flags: TopicFlags = NO_TOPIC,
) -> int:
    """Show the system's topics, their partitions and end offsets; exits with 1 if one does not fit."""
    from persona_stream.cli.topics_command import run_topics

    return run_topics(flags.load(), create=create)


@app.command(group=OPERATE, sort_key=3)
def config(*, flags: AllFlags = NO_ALL) -> int:
    """Every setting, its value and where that came from; as TOML where the output is no terminal."""
    from persona_stream.cli.config_view import show_config

    show_config(flags.load(), flags.overrides(), flags.config)
    return 0


@app.command(group=OPERATE, sort_key=5)
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
    flags: WorkerFlags = NO_WORKER,
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


@app.command(group=OPERATE, sort_key=6)
def explain(
    decision_id: Annotated[str, Parameter(help="As an answer named it.")],
    /,
    *,
    user: Annotated[str | None, Parameter(help="Of this user: only one partition is looked through.")] = None,
    as_json: Annotated[bool, Parameter(name="--json", help="Everything, for a program.")] = False,
    flags: Flags = NO_FLAGS,
) -> int:
    """Why an answer was what it was, from the log; exits with 1 if today's code gives another.

    Puts the state together again that the answer was made on, however long ago,
    and asks again: the user then, the items' features, models, rules, scores.
    """
    from persona_stream.cli.explain_command import run_explain

    return run_explain(flags.load(), decision_id, user=user, as_json=as_json)


@app.command(group=OPERATE, sort_key=7)
def skew(
    *,
    sample: Annotated[int, Parameter(help="How many decisions, chosen by the hash of their ids.")] = 100,
    since: Annotated[
        timedelta | None, Parameter(help="Of those logged within this time, such as 1h. [see --last]")
    ] = None,
    last: Annotated[int | None, Parameter(help="Of this many that were logged last. [10000]")] = None,
    seed: Annotated[int, Parameter(help="Another one gives another sample; the same one, the same.")] = 1,
    every: Annotated[
        timedelta | None, Parameter(help="As a job: again and again, such as every 10m, until SIGTERM.")
    ] = None,
    as_json: Annotated[bool, Parameter(name="--json", help="Everything, for a program.")] = False,
    flags: SkewFlags = NO_SKEW,
) -> int:
    """Compare logged features with those that the log gives today; exits with 1 if any differ.

    Train/serve skew: a model is trained on numbers that serving would not
    compute. Restores the state that a sample of decisions was made on, in one
    pass over the log, and names each feature that comes out otherwise, the
    worst first. With --every, each round looks at what was logged since the
    one before, or within --since, and /metrics tells (PERSONA_SKEW_PORT).
    """
    from persona_stream.cli.skew_command import SkewOptions, run_skew

    return run_skew(flags.load(), SkewOptions(sample, since, last, seed, every, as_json))


@dlq.command(name="list")
def dlq_list(
    *,
    reason: Reasons = None,
    since: Since = None,
    until: Until = None,
    late: Annotated[bool, Parameter(help="Events that came too late, rather than dead letters.")] = False,
    flags: Flags = NO_FLAGS,
) -> int:
    """How many are open by topic and reason, when they came, and one of each."""
    from persona_stream.cli.dlq_command import run_list

    return run_list(flags.load(), _wanted(reason, since, until), late=late)


@dlq.command
def show(
    origin: Annotated[str, Parameter(help="As `dlq list` names it: TOPIC/PARTITION/OFFSET.")],
    /,
    *,
    flags: Flags = NO_FLAGS,
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
    flags: Flags = NO_FLAGS,
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

    return Wanted(frozenset(reason or ()), frozenset(origin or ()), epoch_ms(since), epoch_ms(until))
