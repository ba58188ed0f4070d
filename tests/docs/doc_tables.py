"""The tables of docs/operations.md that follow from the code.

`python tests/docs/doc_tables.py` writes them anew; a test compares them with the code.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from doc_blocks import ROOT
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from persona_stream.cli.config_view import describe_settings
from persona_stream.mirror import mirror_metrics
from persona_stream.serving import http_metrics
from persona_stream.serving.problem import PROBLEMS
from persona_stream.serving.state import ServerState
from persona_stream.skew import skew_metrics
from persona_stream.vocabulary import metrics
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.topics import topic_specs

OPERATIONS = ROOT / "docs" / "operations.md"
_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS


def with_tables(text: str) -> str:
    """docs/operations.md with every marked table as the code has it."""
    return filled(text, {name: table(rows()) for name, rows in TABLES.items()})


def filled(text: str, parts: Mapping[str, str]) -> str:
    """A document with other text in its marked places."""
    for name, part in parts.items():
        before, begin, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        if not (begin and end):
            raise ValueError(f"the document has no place for {name}")
        text = before + begin + part + end + after
    return text


def table(rows: Iterable[Iterable[str]]) -> str:
    """Rows as a table; the first two are of `heading`."""
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def settings_rows() -> Iterator[Iterable[str]]:
    yield from heading("variable", "default", "meaning")
    for setting in describe_settings(Settings.load(env={}), {}, {}, None):
        value = setting.value.strip('"')
        yield f"`{setting.variable}`", f"`{value}`" if value not in {"", "unset"} else "", setting.meaning


def topic_rows() -> Iterator[Iterable[str]]:
    yield from heading("topic", "kept")
    for spec in topic_specs(Settings.load(env={})):
        yield f"`{spec.name}`", kept(spec.config)


def kept(config: dict[str, str]) -> str:
    if config.get("cleanup.policy") == "compact":
        return "the newest value of each key"
    retention_ms = int(config["retention.ms"])
    return "for ever" if retention_ms < 0 else f"{retention_ms // _DAY_MS} days"


def metric_rows() -> Iterator[Iterable[str]]:
    yield from heading("metric", "of", "labels", "meaning")
    yield from module_metrics("worker", metrics)
    yield from module_metrics("mirror", mirror_metrics)
    yield from module_metrics("skew check", skew_metrics)
    yield from module_metrics("server", http_metrics)
    registry = CollectorRegistry()
    registry.register(http_metrics.ReplicaMetrics(ServerState(Settings.load({"kafka": "127.0.0.1:9"}, env={}))))
    for family in registry.collect():
        labels = sorted({label for sample in family.samples for label in sample.labels})
        yield metric_name(family.name, family.type), "server", ", ".join(labels), family.documentation


def module_metrics(process: str, module: object) -> Iterator[Iterable[str]]:
    for made in vars(module).values():
        if isinstance(made, MetricWrapperBase):
            described = next(iter(made.describe()))
            labels = ", ".join(made._labelnames)
            yield metric_name(described.name, described.type), process, labels, described.documentation


def metric_name(name: str, kind: str) -> str:
    return f"`{name}_total`" if kind == "counter" else f"`{name}`"


def problem_rows() -> Iterator[Iterable[str]]:
    yield from heading("`code`", "status", "meaning")
    for code, (status, title) in PROBLEMS.items():
        yield f"`{code}`", str(status), title


def heading(*names: str) -> Iterator[Iterable[str]]:
    yield names
    yield ["---"] * len(names)


TABLES: dict[str, Callable[[], Iterator[Iterable[str]]]] = {
    "settings": settings_rows,
    "topics": topic_rows,
    "metrics": metric_rows,
    "problems": problem_rows,
}


def write(path: Path) -> None:
    path.write_text(with_tables(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    write(OPERATIONS)
