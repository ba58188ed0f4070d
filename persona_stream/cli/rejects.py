"""Lines that break the contract, as commands that read files report them."""

from persona_stream.cli.console import err
from persona_stream.cli.publish import PublishReport


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
