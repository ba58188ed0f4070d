"""Settings: flags win over the environment, that over the file; and `config` tells which one did."""

import dataclasses
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from persona_stream.cli.config_view import describe_settings, setting_meanings
from persona_stream.cli.flags import AllFlags
from persona_stream.cli.running import settings_env
from persona_stream.vocabulary.config import Settings

Call = Callable[..., "subprocess.CompletedProcess[str]"]


def test_flags_win_over_the_environment_and_that_over_the_file(call: Call, tmp_path: Path) -> None:
    file = tmp_path / "persona.toml"
    file.write_text('namespace = "from-file"\nhttp_port = 1000\npartitions = 9\n')
    done = call(
        "config", "--namespace", "from-flag",
        PERSONA_CONFIG=str(file), PERSONA_NAMESPACE="from-env", PERSONA_HTTP_PORT="2000",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any(line.startswith('namespace = "from-flag"  # flag.') for line in lines)
    assert any(line.startswith("http_port = 2000  # env.") for line in lines)
    assert any(line.startswith("partitions = 9  # file.") for line in lines)
    assert any(line.startswith("deadline_ms = 50  # default.") for line in lines)


def test_what_config_prints_is_a_settings_file(call: Call, tmp_path: Path) -> None:
    printed = call("config", "--http-port", "1234", "--partitions", "7").stdout
    file = tmp_path / "printed.toml"
    file.write_text(printed)
    assert tomllib.loads(printed)["partitions"] == 7
    assert Settings.load(env={}, config_file=file).http_port == 1234


def test_secrets_are_not_printed(call: Call) -> None:
    made_up = "hunter2"
    done = call("config", PERSONA_KAFKA_SASL_PASSWORD=made_up, PERSONA_REDIS_URL=f"redis://:{made_up}@host")
    assert made_up not in done.stdout
    assert "kafka_sasl_password = ***  # env." in done.stdout


def test_an_empty_variable_overrides_the_file_only_where_empty_means_something(tmp_path: Path) -> None:
    file = tmp_path / "persona.toml"
    file.write_text('kafka = "host:1"\nnamespace = "mine"\n')
    env = {"PERSONA_KAFKA": "", "PERSONA_NAMESPACE": ""}
    settings = Settings.load(env=env, config_file=file)
    rows = {row.name: row for row in describe_settings(settings, {}, env, file)}
    assert (rows["kafka"].value, rows["kafka"].source) == ('""', "env")
    assert (rows["namespace"].value, rows["namespace"].source) == ('"mine"', "file")


@pytest.mark.parametrize(
    ("variables", "arguments", "says"),
    [
        (
            {"PERSONA_HTTP_PROT": "1"},
            [],
            "unknown setting PERSONA_HTTP_PROT. Did you mean PERSONA_HTTP_PORT?",
        ),
        ({"PERSONA_HTTP_PORT": "x"}, [], "$.http_port"),
        ({}, ["--http-port", "70000"], "$.http_port"),
        ({"PERSONA_CONFIG": "/no/such/file"}, [], "settings file /no/such/file"),
    ],
    ids=["unknown", "type", "range", "file"],
)
def test_a_bad_setting_is_one_line_that_names_it(
    call: Call, variables: dict[str, str], arguments: list[str], says: str
) -> None:
    done = call("config", *arguments, **variables)
    assert done.returncode == 1
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_every_flag_is_a_setting() -> None:
    names = {field.name for field in dataclasses.fields(AllFlags)} - {"config"}
    assert names <= set(Settings.__struct_fields__)


def test_meanings_are_read_from_the_settings_themselves() -> None:
    assert setting_meanings()["kafka"].startswith("Bootstrap servers")
    assert setting_meanings()["partitions"].startswith("Partitions of the topics")


def test_a_child_process_gets_exactly_the_same_settings(tmp_path: Path) -> None:
    settings = Settings(
        kafka="host:1",
        home=tmp_path,
        http_port=1,
        log_json=True,
        kafka_sasl_username="a b=c",
        namespace="x-1",
    )
    assert Settings.load(env=settings_env(settings)) == settings


def test_the_environment_of_a_child_holds_no_settings_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSONA_CONFIG", "/some/file.toml")
    monkeypatch.setenv("PERSONA_HTTP_PORT", "99")
    env = settings_env(Settings(http_port=1))
    assert env["PERSONA_HTTP_PORT"] == "1"
    assert "PERSONA_CONFIG" not in env, "its values are in the settings already, where flags may have won over them"
