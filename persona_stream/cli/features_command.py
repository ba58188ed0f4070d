"""`persona-stream features list` and `check`: what is declared, and what it comes to."""

from collections.abc import Iterable
from pathlib import Path

import msgspec

from persona_stream.cli.console import err, out, print_table
from persona_stream.vocabulary.config import Settings
from tables.attribution import Attribution
from tables.features.catalogue import Declared, kinds, kinds_of_limits, read, shipped
from tables.features.kind import Declarable, Kind
from tables.features.limit_kinds import Limit
from tables.features.limits import DeclaredLimit
from tables.features.parameters import Parameter, declared, parameters, sentence, toml
from tables.features.plan import Plan, attribution_of, plan_of

_OF_ALL = frozenset({*Kind.__struct_fields__, *Limit.__struct_fields__})


def run_list(settings: Settings) -> int:
    """Print a row a feature, in the order of the catalogue, then a row a limit."""
    catalogue = shipped() if settings.features is None else read(settings.features)
    headings = ["feature", "kind", "whose", "parameters", "columns", "meaning"]
    print_table(headings, [_feature_row(one) for one in catalogue.features], right=frozenset({"columns"}))
    if catalogue.limits:
        print_table(["limit", "kind", "parameters", "meaning"], [_limit_row(one) for one in catalogue.limits])
    return 0


def run_kinds() -> int:
    """Print a row a kind: of features, then of limits."""
    print_table(["kind", "parameters", "what it is"], [_kind_row(kind) for kind in kinds().values()])
    print_table(["kind of limit", "parameters", "what it is"], [_kind_row(kind) for kind in kinds_of_limits().values()])
    err.print(
        "every feature may have a `meaning` (a text) and `edges` (numbers) as well, every limit a `meaning` and `slots`"
        " (texts); more in docs/features.md"
    )
    return 0


def run_check(settings: Settings, file: Path | None) -> int:
    """Print what a catalogue comes to. Raises ConfigError, naming the line and key of a mistake."""
    named = file or settings.features
    settings = msgspec.structs.replace(settings, features=named)
    plan = plan_of(settings)
    features = [one.feature for one in plan.declared]
    out.print(f"{named or 'the shipped catalogue'}: {_counted(plan)}, hash {plan.features.hash}", markup=False)
    for what, names in (
        ("attributes", _attributes(plan)),
        ("traits", [name for feature in features for name in feature.trait_fields()]),
        ("context", sorted(plan.context_fields)),
        ("limits", [f"{one.name} ({one.limit.kind})" for one in plan.limits]),
        ("attribution", _attributed(attribution_of(settings))),
    ):
        out.print(f"  {what:<11} {', '.join(dict.fromkeys(names)) or 'none'}", markup=False)
    return 0


def _feature_row(one: Declared) -> list[str]:
    feature = one.feature
    return [one.name, feature.kind, feature.place(), _fields(feature), str(len(feature.suffixes())), _meaning(feature)]


def _limit_row(one: DeclaredLimit) -> list[str]:
    return [one.name, one.limit.kind, _fields(one.limit), _meaning(one.limit)]


def _fields(held: Declarable) -> str:
    return ", ".join(f"{name} = {toml(value)}" for name, value in declared(held).items())


def _meaning(held: Declarable) -> str:
    return held.meaning or sentence(type(held))


def _kind_row(kind: type[Declarable]) -> list[str]:
    told = [_told(one) for one in parameters(kind) if one.name not in _OF_ALL]
    return [kind.kind, ", ".join(told), sentence(kind)]


def _told(parameter: Parameter) -> str:
    if parameter.required:
        return parameter.name
    return f"{parameter.name} = {parameter.default}" if parameter.default else f"[{parameter.name}]"


def _counted(plan: Plan) -> str:
    features, columns = len(plan.declared), plan.features.width
    return f"{features} feature{'s' * (features != 1)}, {columns} column{'s' * (columns != 1)}"


def _attributed(rules: Attribution) -> list[str]:
    """Which lists outcomes answer, what weighs otherwise than 1, and what share of the others becomes examples."""
    slots = [f"{slot} {window_ms} ms" for slot, window_ms in rules.slot_windows_ms.items()]
    weights = [f"{outcome} x {weight:g}" for outcome, weight in rules.weights.items() if weight != 1]
    unlisted = [f"{rules.unlisted:g} of the outcomes that answer no list"] if rules.unlisted < 1 else []
    return [f"{rules.touch} touch within {rules.window_ms} ms", *slots, *weights, *unlisted]


def _attributes(plan: Plan) -> Iterable[str]:
    """Each attribute, and as what it is read."""
    held: dict[str, list[str]] = {}
    for read_as in plan.needs.__struct_fields__:
        for name in getattr(plan.needs, read_as):
            held.setdefault(name, []).append("values" if read_as == "codes" else read_as)
    return (f"{name} ({', '.join(read_as)})" for name, read_as in held.items())
