"""The section of a catalogue that says which lists outcomes answer: the same for workers, rebuilds and servers.

[attribution]
window = "30m"             # an outcome answers a list at most this much older
touch = "last"             # of several such lists with the item the "last", the "first", or "all"
unlisted = 1.0             # of the outcomes that answer no list, the share that become examples

[attribution.slots.home]   # lists of this slot
window = "2h"

[attribution.weights]      # how much an example of an outcome counts; 1 where none is told
purchase = 4.0
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar

from msgspec import Meta, Struct

from persona_stream.vocabulary.events import GRADES, RATING
from tables.attribution import Attribution, Touch
from tables.features.kind import Declarable, Duration, duration_ms

SLOT_CHARS = 128
OUTCOMES = (*GRADES, RATING)
Weight = Annotated[float, Meta(ge=0.0, le=1000.0)]


class General(Declarable, frozen=True, kw_only=True):
    """What holds where no slot says otherwise."""

    kind: ClassVar[str] = "attribution"
    window: Duration | None = None
    """An outcome answers a list at most this much older; by default the setting `attribution_window_ms`."""
    touch: Touch = "last"
    """Which of several lists with the item an outcome answers that names none."""
    unlisted: Annotated[float, Meta(ge=0.0, le=1.0)] = 1.0
    """Of the outcomes that answer no list, the share that become examples of their own."""


class OfSlot(Declarable, frozen=True, kw_only=True):
    """What holds for the lists of one slot."""

    kind: ClassVar[str] = "slot"
    window: Duration
    """An outcome answers a list of this slot at most this much older."""


class Weights(Declarable, frozen=True, kw_only=True):
    """How much examples of each type of outcome count."""

    kind: ClassVar[str] = "weights"
    click: Weight = 1.0
    """Of a click."""
    add_to_cart: Weight = 1.0
    """Of a cart."""
    purchase: Weight = 1.0
    """Of a purchase."""
    rating: Weight = 1.0
    """Of a rating of 4 or more."""


class AttributionSection(Struct, frozen=True):
    """The section of a catalogue."""

    general: General = General()
    slots: Mapping[str, OfSlot] = {}
    weights: Weights = Weights()

    def rules(self, window_ms: int) -> Attribution:
        """The rules; `window_ms`: the setting, for what declares no window."""
        general = self.general
        return Attribution(
            window_ms=duration_ms(general.window) if general.window else window_ms,
            touch=general.touch,
            unlisted=general.unlisted,
            slot_windows_ms={slot: duration_ms(one.window) for slot, one in self.slots.items()},
            weights={outcome: getattr(self.weights, outcome) for outcome in OUTCOMES},
        )
