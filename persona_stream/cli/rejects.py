"""Lines that break the contract, as commands that read files report them."""

from collections.abc import Iterator

from persona_stream.cli.console import err
from persona_stream.cli.publish import PublishReport, Reject, note_reject
from persona_stream.history.files import BadRow, HistoryFile, Listener, OnRows, Parsed


def good_rows(file: HistoryFile, report: PublishReport, on_rows: OnRows = lambda *_: None) -> Iterator[Parsed]:
    """The good rows of a file; others go into `report`, and are printed. Raises InputError where it can't be read."""

    def on_bad(bad: BadRow) -> None:
        note_reject(Reject(bad.number, bad.reason, bad.detail, b""), report)

    def on_passed_over(columns: list[str]) -> None:
        told = ", ".join(columns)[:300]
        err.print(f"{file.path}: columns that are no fields of {file.kind.name} are passed over: {told}", markup=False)

    yield from file.read(Listener(on_bad, on_rows, on_passed_over))
    print_rejects(report, of=f" of {file.path}", unit="row" if file.path.suffix == ".parquet" else "line")


def print_rejects(report: PublishReport, *, of: str = "", rest: str = "", unit: str = "line") -> None:
    """How many and why, and the first ones with their numbers. `rest`: where all are, or how to get them, if so."""
    if not report.rejected_total:
        return
    err.print(f"rejected {report.rejected_total:,} {unit}s{of}:", style="red", markup=False)
    for reason, count in report.rejected.most_common():
        err.print(f"  {count:>9,}  {reason}")
    for reject in report.first_rejects:
        err.print(f"  {unit} {reject.line}: {reject.reason}: {reject.detail}", markup=False)
    if report.rejected_total > len(report.first_rejects):
        err.print(f"  (the first {len(report.first_rejects)} are shown{f'; {rest}' if rest else ''})", markup=False)
