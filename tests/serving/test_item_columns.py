"""Items as columns: what goes with an item, and what a server holds of each."""

from persona_stream.serving.item_columns import ItemColumns, served_item
from persona_stream.vocabulary.messages import ItemEvent
from tables.covisits import packed
from tables.items import ItemState, apply_item_event

T0_MS = 1_700_000_000_000


def _seen_with(*baskets: list[str]) -> ItemState:
    state = ItemState()
    for offset, near in enumerate(baskets):
        apply_item_event(state, ItemEvent("", 1, T0_MS + offset, 0, 0, offset, "", 7, packed(near)))
    return state


def _neighbours(columns: ItemColumns, item: str) -> dict[str, int]:
    rows, counts = columns.neighbours(item)
    return dict(zip([columns.ids[row] for row in rows.tolist()], counts.tolist(), strict=True))


def test_neighbours_are_those_that_something_is_held_of() -> None:
    columns = ItemColumns()
    columns.put("mug", _seen_with(["pot", "tea"], ["pot"], ["rug"]))
    assert _neighbours(columns, "mug") == {}, "nothing but their hashes has been heard of"
    for item in ("pot", "tea", "lamp"):
        columns.put(item, _seen_with(["mug"]))
    assert _neighbours(columns, "mug") == {"pot": 2, "tea": 1}
    columns.delete("pot")
    assert _neighbours(columns, "mug") == {"tea": 1}
    assert _neighbours(columns, "never seen") == {}


def test_what_is_held_is_what_the_state_is_served_as() -> None:
    columns, states = ItemColumns(), {"mug": _seen_with(["pot", "tea"], ["pot"]), "pot": ItemState()}
    for item, state in states.items():
        columns.put(item, _seen_with(*[["lamp"]] * 20))
        columns.put(item, state)
        assert columns.served(item) == served_item(state)
    assert columns.covisit_counts(columns.rows(["mug", "pot", "gone"]), ["pot", "rug"]).tolist() == [2, 0, 0]
