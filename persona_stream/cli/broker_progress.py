"""Shows what a broker that is starting does: a bar while its jars are downloaded, a line for the rest."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
from rich.progress import Progress as Bar

from persona_stream.broker import OnProgress, Progress
from persona_stream.cli.console import err

_STAGES = {
    "install": "downloading Kafka (first start only)",
    "format": "preparing the data folder (first start only)",
    "start": "starting Kafka",
}


@contextmanager
def broker_progress() -> Iterator[OnProgress]:
    """A callback for `EmbeddedBroker.start`: a bar on a terminal, else one line a stage."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bar(*columns, console=err, disable=not err.is_terminal, transient=True) as bar:
        task = bar.add_task("", visible=False, total=None)
        last_stage = ""

        def on_progress(progress: Progress) -> None:
            nonlocal last_stage
            if progress.stage != last_stage:
                last_stage = progress.stage
                err.print(f"{_STAGES[progress.stage]} ...")
            is_download = progress.stage == "install"
            bar.update(task, completed=progress.done_bytes, total=progress.total_bytes or None, visible=is_download)

        yield on_progress
