"""The section of a catalogue that says which lists outcomes answer: the same for workers, rebuilds and servers.

[attribution]
window = "30m"             # an outcome answers a list at most this much older
touch = "last"             # of several such lists with the item the "last", the "first", or "all"

[attribution.slots.home]   # lists of this slot
window = "2h"
"""

from collections.abc import Mapping
from typing import ClassVar

from msgspec import Struct

from tables.attribution import Attribution, Touch
from tables.features.kind import Declarable, Duration, duration_ms

SLOT_CHARS = 128


class General(Declarable, frozen=True, kw_only=True):
    """What holds where no slot says otherwise."""

    kind: ClassVar[str] = "attribution"
    window: Duration | None = None
    """An outcome answers a list at most this much older; by default the setting `attribution_window_ms`."""
    touch: Touch = "last"
    """Which of several lists with the item an outcome answers that names none."""


class OfSlot(Declarable, frozen=True, kw_only=True):
    """What holds for the lists of one slot."""

    kind: ClassVar[str] = "slot"
    window: Duration
    """An outcome answers a list of this slot at most this much older."""


class AttributionSection(Struct, frozen=True):
    """The section of a catalogue."""

    general: General = General()
    slots: Mapping[str, OfSlot] = {}

    def rules(self, window_ms: int) -> Attribution:
        """The rules; `window_ms`: the setting, for what declares no window."""
        general = self.general
        return Attribution(
            window_ms=duration_ms(general.window) if general.window else window_ms,
            touch=general.touch,
            slot_windows_ms={slot: duration_ms(one.window) for slot, one in self.slots.items()},
        )
