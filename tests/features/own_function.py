"""A feature that is a function of one's own, as a catalogue of kind `python` names it."""

import numpy as np

from tables.features.blocks import Numbers, Rows


def price_and_place(rows: Rows) -> Numbers:
    """Twice the price, and the row's place in its question."""
    place = np.arange(len(rows)) - rows.first[rows.question]
    return 2 * rows.attributes.numbers["price"][rows.item] + place
