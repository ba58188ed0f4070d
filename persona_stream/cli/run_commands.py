"""Commands that run something, and those about data and models."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from persona_stream.cli.flags import AllFlags, BackfillFlags, Flags, MirrorFlags, ServeFlags, WorkerFlags
from persona_stream.cli.root import DATA, NO_ALL, NO_BACKFILL, NO_FLAGS, NO_MIRROR, NO_SERVE, NO_WORKER, RUN, app

ModelName = Annotated[str, Parameter(help="The model's name in the registry.")]
_MODEL = "ranker"
models = App(name="models", help="The versions of rankers, and which one is served.", group=DATA, sort_key=3)
app.command(models)

Supervised = Annotated[bool, Parameter(show=False, help="End with the process behind standard input.")]


@app.command(group=RUN, sort_key=1)
def up(*, flags: AllFlags = NO_ALL) -> int:
    """Start broker, worker and server, supervised; Ctrl-C stops all.

    Without --kafka (or PERSONA_KAFKA) a real Kafka broker is downloaded on the
    first start (43 MB) and run from the home folder, where its data is kept.
    Prints where everything is, and how to publish and ask.
    """
    from persona_stream.cli.up import run_up

    return run_up(flags.load())


@app.command(group=RUN, sort_key=2)
def demo(
    *,
    events: Annotated[int | None, Parameter(help="About how many events: whole histories of some households.")] = None,
    once: Annotated[bool, Parameter(help="Exit when done, rather than keep serving.")] = False,
    flags: AllFlags = NO_ALL,
) -> int:
    """Do what `up` does with a year of real shopping: stream it, train a ranker, show answers."""
    from persona_stream.cli.demo import run_demo

    return run_demo(flags.load(), events=events, once=once)


@app.command(group=RUN, sort_key=3)
def worker(*, supervised: Supervised = False, flags: WorkerFlags = NO_WORKER) -> int:
    """Fold events into tables. Start one a core, up to the number of partitions; SIGTERM drains it."""
    _tie(supervised)
    from persona_stream.cli.roles import run_worker

    return run_worker(flags.load())


@app.command(group=RUN, sort_key=4)
def serve(*, supervised: Supervised = False, flags: ServeFlags = NO_SERVE) -> int:
    """Answer requests from replicas of the tables. Start as many as traffic asks; SIGTERM drains it."""
    _tie(supervised)
    from persona_stream.cli.roles import run_serve

    return run_serve(flags.load())


@app.command(group=RUN, sort_key=5)
def mirror(
    *,
    rebuild: Annotated[bool, Parameter(help="Write everything again, remove what no table has, and end.")] = False,
    supervised: Supervised = False,
    flags: MirrorFlags = NO_MIRROR,
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


@app.command(group=RUN, sort_key=6)
def broker(
    *,
    port: Annotated[int, Parameter(help="Another one is taken where it is in use.")] = 9092,
    flags: Flags = NO_FLAGS,
) -> int:
    """Run the embedded Kafka broker alone, for this machine only (127.0.0.1).

    Other commands of the same home folder find it by themselves. The first
    start downloads Kafka (43 MB); data is kept in the home folder.
    """
    from persona_stream.cli.roles import run_broker

    return run_broker(flags.load(), port=port)


@app.command(group=DATA, sort_key=1)
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
    flags: Flags = NO_FLAGS,
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


@app.command(group=DATA, sort_key=2)
def backfill(
    files: Annotated[
        list[Path] | None, Parameter(help="The history: .jsonl, .json, .ndjson or .csv, also .gz; .parquet.")
    ] = None,
    /,
    *,
    items: Annotated[Path | None, Parameter(help="The catalogue's versions, a file likewise. [the topic's]")] = None,
    profiles: Annotated[Path | None, Parameter(help="Versions of profiles, likewise. [the topic's]")] = None,
    topic: Annotated[str | None, Parameter(help="Without files, read this topic. [the events topic]")] = None,
    map_: Annotated[
        str,
        Parameter(
            name="--map", help="What fields of events are called: user=customer_id,item=sku,...", show_default=False
        ),
    ] = "",
    out: Annotated[
        Path | None, Parameter(help="Write the examples here, .parquet or .jsonl. [the examples topic]")
    ] = None,
    sessions: Annotated[int, Parameter(help="Ask for candidates at the start of about this many sessions.")] = 4000,
    skip_rejects: Annotated[bool, Parameter(help="Exit with 0 even if rows were rejected.")] = False,
    flags: BackfillFlags = NO_BACKFILL,
) -> int:
    """Make training examples of history, through the folds of the stream; live state is not touched.

    Without files, of the events topic. Each list shown gives its rows and what
    came of them, each choice made from no list one with an item not chosen, and
    each session candidates as they would have been found, and what was chosen.
    All with the features of the catalogue, as of their moment: a new feature
    has its whole history.

    Columns of CSV and Parquet are the fields of events; `items` and `context`
    are JSON, or lists and structs; `ts` may be a Parquet timestamp. A row with
    no `id` is named by its content, the file's name and its number there.
    A row that breaks the contract is left out; how many and why is reported,
    and the exit code is 1. Running it again adds nothing to learn from.
    """
    from persona_stream.cli.backfill_command import BackfillOptions, columns_of, run_backfill

    options = BackfillOptions(
        files=files or [],
        items=items,
        profiles=profiles,
        topic=topic,
        column_of=columns_of(map_),
        out=out,
        sessions=sessions,
    )
    return run_backfill(flags.load(), options, skip_rejects=skip_rejects)


@app.command(group=DATA, sort_key=2)
def train(
    *,
    name: ModelName = _MODEL,
    origin: Annotated[
        Literal["online", "impression", "backfill"] | None,
        Parameter(help="Train on examples of this origin only."),
    ] = None,
    backfill: Annotated[
        bool, Parameter(help="Replay the event log first, and make examples of the sessions in it.")
    ] = False,
    examples: Annotated[
        Path | None, Parameter(help="Train on this file, as `backfill --out` made it. [the examples topic]")
    ] = None,
    seed: Annotated[int, Parameter(help="The same examples and seed give the same model.")] = 1,
    promote: Annotated[
        bool | None,
        Parameter(negative="--no-promote", help="Serve it, or not. [if it beats the simple rules on later time]"),
    ] = None,
    flags: Flags = NO_FLAGS,
) -> int:
    """Train a ranker on the logged examples, judge it on later time, publish it, serve it if better.

    LambdaRank by LightGBM, exported to ONNX. The last fifth of time is held out:
    the ranker is compared on it with popularity and personal frequency.
    """
    from persona_stream.cli.train_command import TrainOptions, run_train

    options = TrainOptions(name=name, origin=origin, seed=seed, promote=promote, backfill=backfill, examples=examples)
    return run_train(flags.load(), options)


@app.command(group=DATA, sort_key=5)
def evaluate(
    events: Annotated[Path, Parameter(help="The log: JSON lines, CSV or Parquet, as `backfill` reads them.")],
    /,
    *,
    items: Annotated[Path | None, Parameter(help="The catalogue, likewise.")] = None,
    profiles: Annotated[Path | None, Parameter(help="The profiles, likewise.")] = None,
    train_share: Annotated[float, Parameter(help="Train on this share of the log's time, ask for the rest.")] = 0.6,
    by: Annotated[
        Literal["lists", "sessions"] | None,
        Parameter(
            help="Judge lists shown, or recommendations as sessions begin. By default sessions if there are no lists."
        ),
    ] = None,
    shuffle: Annotated[bool, Parameter(help="Put lists in a random order first: nothing is learned from it.")] = False,
    seed: Annotated[int, Parameter(help="The same log and seed give the same model and intervals.")] = 1,
    flags: Flags = NO_FLAGS,
) -> int:
    """Stream a log through a system of its own, and judge its answers by what users then chose.

    The first part of the time is trained on; for the rest, the server is asked
    to order each list just before it was shown or, of a log without lists, to
    recommend something as each session begins. Simple rules stand beside it, all
    with bootstrap intervals.
    """
    from persona_stream.cli.evaluate_command import EvaluateOptions, run_evaluate

    options = EvaluateOptions(
        events=events, items=items, profiles=profiles, train_share=train_share, by=by, shuffle=shuffle, seed=seed
    )
    return run_evaluate(flags.load(), options)


@models.command(name="list")
def models_list(*, flags: Flags = NO_FLAGS) -> int:
    """Every version with its age, size and measures; the live one is marked."""
    from persona_stream.cli.models_command import run_list

    return run_list(flags.load())


@models.command
def promote(
    version: Annotated[str, Parameter(help="As `models list` names it.")],
    /,
    *,
    name: ModelName = _MODEL,
    flags: Flags = NO_FLAGS,
) -> int:
    """Serve VERSION from now on; it is loaded and checked first."""
    from persona_stream.cli.models_command import run_promote

    return run_promote(flags.load(), name, version)


@models.command
def rollback(*, name: ModelName = _MODEL, flags: Flags = NO_FLAGS) -> int:
    """Serve the version that was live before the present one."""
    from persona_stream.cli.models_command import run_rollback

    return run_rollback(flags.load(), name)


def _tie(supervised: bool) -> None:
    if supervised:
        from persona_stream.cli.lifeline import tie_to_supervisor

        tie_to_supervisor()
