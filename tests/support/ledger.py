"""The faults that were tried, and after which state was what one clean pass gives: the table of docs/reliability.md."""

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

RELIABILITY = Path(__file__).parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- faults -->\n", "<!-- /faults -->"


class Ledger:
    """What the tests of this session tried; a test adds its faults when all that it asserts holds."""

    def __init__(self) -> None:
        self.tried: Counter[str] = Counter()

    def add(self, fault: str, times: int) -> None:
        """Note a fault that state survived."""
        self.tried[fault] += times

    def write(self) -> None:
        """Put the table into the document in place of the one before."""
        before, _, rest = RELIABILITY.read_text(encoding="utf-8").partition(BEGIN)
        _, _, after = rest.partition(END)
        rows = "".join(f"| {fault} | {times} |\n" for fault, times in self.tried.items() if times)
        table = f"| fault, under load | times, {datetime.now(UTC):%Y-%m-%d} |\n| --- | ---: |\n{rows}"
        RELIABILITY.write_text(before + BEGIN + table + END + after, encoding="utf-8")
