"""The question of a decision asked again: today's engine on the state of then."""

import math

import numpy as np
from msgspec import Struct

from models.ranker import trained_features
from models.registry import Registry
from persona_stream.explain.past import Past
from persona_stream.kafka.writer import BatchWriter
from persona_stream.serving.decisions import DecisionLog
from persona_stream.serving.engine import LOGGED_ITEMS, Engine
from persona_stream.serving.placing import Placed
from persona_stream.serving.questions import Question
from persona_stream.serving.scorers import RANKER, Scored
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import ModelError
from persona_stream.vocabulary.messages import Decision, ModelRecord
from tables.counters import Floats
from tables.feature_set import FeatureSet
from tables.features.plan import feature_set

_POSITION = "position"
_HISTORY_ALONE = frozenset({"deadline", "model-error"})
"""Fallbacks that came of the moment: they are taken as they were."""


class Again(Struct):
    """What today's engine makes of the question, and what it needed for that."""

    engine: Engine
    features: FeatureSet
    """Today's."""
    question: Question
    scored: Scored
    fallback: str | None
    placed: Placed
    withheld: list[str]
    logged: Floats
    """The features as logged: a row an item shown, a column a name of `names`."""
    names: tuple[str, ...]
    """Of the columns of `logged`; empty where nobody knows them any more."""


async def ask_again(settings: Settings, decision: Decision, past: Past) -> Again:
    """Ask. Where models of then are gone or may not be served, `past.notes` says so."""
    unused = DecisionLog(settings, BatchWriter(settings, client_id="explain"))
    engine, features = Engine(settings, past.replica, unused), feature_set(settings)
    names = features.names if decision.feature_hash == features.hash else ()
    record = await _ranker(settings, decision, past)
    if record is not None and names:
        await engine.scorers.load(record)
    elif record is not None and not names:
        names = _names_of(record, decision.feature_hash)
    if decision.fallback == "replica-stopped":
        past.replica.error = RuntimeError("as it was then")
    items = decision.ranked or decision.items
    told = {} if decision.segment is None else {settings.segment_field: decision.segment}
    question = engine.question(
        decision.user,
        items,
        decision.as_of_ms,
        ordered=decision.asked == "rank",
        context=decision.context | told,
        slot=decision.slot,
    )
    question.asked, question.withheld = decision.asked, decision.withheld
    question.due_s = -math.inf if decision.fallback in _HISTORY_ALONE else math.inf
    logged = np.frombuffer(decision.features, dtype=np.float32).reshape(len(decision.items), _width(decision, features))
    position = features.get(_POSITION)
    if decision.state is None and names == features.names and position is not None:
        # The list as it was given is not known, but what its places made of it is.
        question.features[:, position] = logged[:, position]
    scored, fallback = engine.score(question)
    if decision.fallback in _HISTORY_ALONE and fallback == "deadline":
        fallback = decision.fallback
    placed = engine.place(question, scored, min(decision.k or len(decision.items), LOGGED_ITEMS))
    withheld = engine.shown([*items, *decision.withheld], decision.as_of_ms)[1]
    return Again(engine, features, question, scored, fallback, placed, withheld, logged, names)


def _width(decision: Decision, features: FeatureSet) -> int:
    return len(decision.features) // 4 // len(decision.items) if decision.items else features.width


async def _ranker(settings: Settings, decision: Decision, past: Past) -> ModelRecord | None:
    served = [name.removeprefix(f"{RANKER}/") for name in decision.model.split("+") if name.startswith(f"{RANKER}/")]
    if not served:
        return None
    try:
        return (await Registry(settings).load()).version(RANKER, served[0])
    except ModelError as error:
        past.notes.append(f"the ranker of then is gone: {error.message}")
        return None


def _names_of(record: ModelRecord, feature_hash: str) -> tuple[str, ...]:
    try:
        trained_on, names = trained_features(record.onnx)
    except ModelError:
        return ()
    return names if trained_on == feature_hash else ()
