"""The rules that an answer went by, in words."""

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from persona_stream.explain.past import Past
from persona_stream.serving.views import rfc3339
from persona_stream.vocabulary.messages import Decision
from tables.features.parameters import toml

_FALLBACKS = {
    "unknown-user": "nothing was known of the user: what is trending, in the user's segment where one is known",
    "no-model": "no ranker was served and the online model had learned too little: the user's own history",
    "deadline": "the deadline had passed before scoring: the user's own history",
    "model-error": "the models could not score: the user's own history",
    "replica-stopped": "the server had stopped reading from Kafka: scored on what it held",
}


class Rule(Struct, omit_defaults=True):
    """One rule that had a part in the answer."""

    rule: str
    """`fallback`, `withheld`, `blend`, `given-order`, `limited` or `limit`."""
    detail: str
    item: str | None = None


def rules_applied(decision: Decision, past: Past) -> list[Rule]:
    """The rules, in the order in which they act."""
    rules = [Rule("withheld", _why_withheld(item, decision, past), item) for item in decision.withheld]
    if decision.fallback is not None:
        rules.append(Rule("fallback", f"{decision.fallback}: {_FALLBACKS.get(decision.fallback, '')}".rstrip(": ")))
    if decision.policy == "blend":
        rules.append(
            Rule("blend", f"{decision.model}: each model's scores standardized within the list, then their mean")
        )
    if decision.policy == "given-order":
        rules.append(Rule("given-order", "nothing was known of any of the items: the order given stands"))
    rules += [Rule("limited", _why_limited(name, decision), item) for item, name in decision.limited.items()]
    if decision.candidates > len(decision.items):
        rules.append(Rule("limit", f"{len(decision.items)} of {decision.candidates} candidates, the best, are logged"))
    return rules


def told_limit(fields: Mapping[str, Any]) -> str:
    """A limit as it was declared.

    >>> told_limit({"kind": "shown", "most": 5, "within": "1h"})
    'shown, most = 5, within = "1h"'
    """
    return ", ".join([str(fields["kind"]), *(f"{key} = {toml(v)}" for key, v in fields.items() if key != "kind")])


def _why_limited(name: str, decision: Decision) -> str:
    fields = decision.limits.get(name)
    return f"behind items with lower scores by {name}" + (f": {told_limit(fields)}" if fields else "")


def _why_withheld(item: str, decision: Decision, past: Past) -> str:
    entry = past.replica.catalogue.get(item)
    if entry is not None and entry.deleted:
        return "deleted from the catalogue"
    if entry is not None and entry.hidden:
        return "hidden in the catalogue"
    if entry is not None and entry.expires_ms is not None and entry.expires_ms <= decision.as_of_ms:
        return f"expired at {rfc3339(entry.expires_ms)}"
    return "by a version of the catalogue that is gone"
