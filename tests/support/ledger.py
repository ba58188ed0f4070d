"""The faults that were tried, and after which state was what one clean pass gives: the table of docs/reliability.md."""

import re
from collections import Counter
from pathlib import Path

RELIABILITY = Path(__file__).parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- faults -->\n", "<!-- /faults -->"
_HEAD = "| fault, under load | times in one session |\n| --- | ---: |\n"
_ROW = re.compile(r"^\| (.+) \| (\d+) \|$", re.MULTILINE)


class Ledger:
    """What the tests of this session tried; a test adds its faults when all that it asserts holds."""

    def __init__(self) -> None:
        self.tried: Counter[str] = Counter()

    def add(self, fault: str, times: int) -> None:
        """Note a fault that state survived."""
        self.tried[fault] += times

    def write(self) -> None:
        """Put what was tried into the document; of each fault the most that one session tried stands there."""
        before, _, rest = RELIABILITY.read_text(encoding="utf-8").partition(BEGIN)
        table, _, after = rest.partition(END)
        known = {fault: int(times) for fault, times in _ROW.findall(table)}
        most = known | {fault: max(times, known.get(fault, 0)) for fault, times in self.tried.items() if times}
        rows = "".join(f"| {fault} | {times} |\n" for fault, times in sorted(most.items()))
        RELIABILITY.write_text(f"{before}{BEGIN}{_HEAD}{rows}{END}{after}", encoding="utf-8")
