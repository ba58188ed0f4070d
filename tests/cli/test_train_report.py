"""What `train` prints and decides where a simple rule could not be measured."""

import msgspec
import pytest

from models.evaluation import Interval
from models.groups import Dropped
from models.train import Measured, TrainingReport
from persona_stream.cli.train_command import beats_simple_rules, print_report


def _measured(mean: float) -> Measured:
    return Measured(Interval(mean, mean - 0.01, mean + 0.01), Interval(mean, mean - 0.01, mean + 0.01))


REPORT = TrainingReport(
    ranker=_measured(0.5),
    popularity=_measured(0.6),
    personal_frequency=_measured(0.4),
    train_groups=80,
    held_out_groups=20,
    train_rows=800,
    held_out_rows=200,
    trained_from_ms=0,
    held_out_from_ms=80,
    held_out_to_ms=100,
    dropped=Dropped(0, 0, 0),
)


@pytest.mark.parametrize(
    ("popularity", "frequency", "beats"),
    [(0.4, 0.4, True), (0.6, 0.4, False), (0.4, 0.6, False), (None, 0.6, False), (None, 0.4, True), (0.6, None, False)],
)
def test_every_rule_measured_must_be_beaten(popularity: float | None, frequency: float | None, beats: bool) -> None:
    rules = [None if mean is None else _measured(mean) for mean in (popularity, frequency)]
    report = msgspec.structs.replace(REPORT, popularity=rules[0], personal_frequency=rules[1])
    assert beats_simple_rules(report) is beats


def test_a_rule_that_was_not_measured_has_no_row(capsys: pytest.CaptureFixture[str]) -> None:
    print_report(msgspec.structs.replace(REPORT, popularity=None))
    printed = capsys.readouterr().out
    assert "personal frequency\t0.400" in printed
    assert "popularity" not in printed
