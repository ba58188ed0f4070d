"""Commands about features: what is declared, whether it holds, and what it comes to."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from persona_stream.cli.flags import FeatureFlags
from persona_stream.cli.root import DATA, NO_FEATURES, app, epoch_ms

features = App(name="features", help="The catalogue of features: list it, check it, try it.", group=DATA, sort_key=4)
app.command(features)


@features.command(name="list")
def features_list(
    *,
    kinds: Annotated[bool, Parameter(help="Every kind that a feature can be of, rather than the features.")] = False,
    flags: FeatureFlags = NO_FEATURES,
) -> int:
    """Every feature: its kind, whose it is, its parameters, how many columns, and what it is for."""
    from persona_stream.cli import features_command as command

    return command.run_kinds() if kinds else command.run_list(flags.load())


@features.command
def check(
    file: Annotated[
        Path | None, Parameter(help="A catalogue. [that of --features, PERSONA_FEATURES or the shipped]")
    ] = None,
    /,
    *,
    flags: FeatureFlags = NO_FEATURES,
) -> int:
    """Read a catalogue and say what it comes to; exits with 1 on a mistake, naming line and key."""
    from persona_stream.cli.features_command import run_check

    return run_check(flags.load(), file)


@features.command
def preview(
    *,
    events: Annotated[
        str, Parameter(allow_leading_hyphen=True, help="JSON lines, gzipped if it ends in .gz; - for standard input.")
    ],
    user: Annotated[str, Parameter(help="Who is asked about.")],
    ask: Annotated[list[str], Parameter(help="The items, in the list's order: i1,i2; may be repeated.")],
    items: Annotated[Path | None, Parameter(help="JSON lines of items: of each, the newest counts.")] = None,
    profiles: Annotated[Path | None, Parameter(help="JSON lines of profiles: of each user, the newest counts.")] = None,
    at: Annotated[
        datetime | None,
        Parameter(help="When it is asked (UTC unless it says). [just after the user's last event]", show_default=False),
    ] = None,
    context: Annotated[str, Parameter(help="The request's context, a JSON object.")] = "{}",
    slot: Annotated[str, Parameter(help="The slot that the list is for.", show_default=False)] = "",
    as_json: Annotated[bool, Parameter(name="--json", help="Print one JSON document.")] = False,
    flags: FeatureFlags = NO_FEATURES,
) -> int:
    """What each feature is for a user and some items, after the events before a time. Needs no Kafka.

    Folds the events in the order of their times, as a worker does. A line that
    breaks the contract is passed over; how many and why is reported, and the
    exit code is 1.
    """
    from persona_stream.cli.features_preview import Asked, run_preview

    asked = Asked(
        events=events,
        items=items,
        profiles=profiles,
        user=user,
        ask=ask,
        at_ms=epoch_ms(at),
        context=context,
        slot=slot,
    )
    return run_preview(flags.load(), asked, as_json=as_json)
