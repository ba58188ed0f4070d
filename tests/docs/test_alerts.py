"""The alert rules: valid PromQL over metrics and labels that exist, each with what to do about it."""

import re
from typing import Any

import promql_parser
import pytest
import yaml
from doc_blocks import ROOT
from doc_tables import OPERATIONS, metric_rows

RULES: list[dict[str, Any]] = yaml.safe_load((ROOT / "docker" / "alerts.yaml").read_text())["groups"][0]["rules"]
METRICS = {name.strip("`"): set(filter(None, labels.split(", "))) for name, _, labels, _ in map(tuple, metric_rows())}
ADDED_BY_PROMETHEUS = {"instance", "job"}


def selectors(expression: str) -> list[tuple[str, set[str]]]:
    """(metric, labels it is filtered by) of each selector of an expression."""
    found = re.findall(r"\b(persona_\w+)(?:\{([^}]*)\})?", expression)
    return [(name, set(re.findall(r"(\w+)\s*[=!]", filters))) for name, filters in found]


def grouped_by(expression: str) -> set[str]:
    """The labels that an expression aggregates or joins by."""
    return {name for names in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression) for name in names.split(", ")}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_is_valid_and_names_what_exists(rule: dict[str, Any]) -> None:
    promql_parser.parse(rule["expr"])
    used = selectors(rule["expr"])
    assert used
    labels: set[str] = set(ADDED_BY_PROMETHEUS)
    for metric, filtered in used:
        assert metric in METRICS, f"there is no metric {metric}"
        assert filtered <= METRICS[metric], metric
        labels |= METRICS[metric]
    assert grouped_by(rule["expr"]) <= labels
    assert rule["labels"]["severity"] in {"page", "ticket"}
    # What the summary speaks of is in the result: grouped away, it would be empty.
    shown = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
    assert shown <= (grouped_by(rule["expr"]) or labels)


def test_the_runbook_has_each_alert_once_and_no_other() -> None:
    text = OPERATIONS.read_text(encoding="utf-8")
    assert re.findall(r"^\| `(Persona\w+)` \|", text, re.MULTILINE) == [rule["alert"] for rule in RULES]


def test_a_metric_that_is_not_there_is_noticed() -> None:
    assert selectors('rate(persona_nothing_total{a="b", c!~"d"}[5m])') == [("persona_nothing_total", {"a", "c"})]
    with pytest.raises(ValueError, match=r"."):
        promql_parser.parse("sum by (x) (persona_nothing_total")
