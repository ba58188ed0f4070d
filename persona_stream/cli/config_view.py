"""`persona-stream config`: every setting, its value, where that came from, and what it means."""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from persona_stream.cli.console import out
from persona_stream.vocabulary.config import PREFIX, Settings
from persona_stream.vocabulary.meanings import field_meanings

SECRETS = frozenset({"kafka_sasl_password", "redis_url"})
"""Settings whose value is never printed (a Redis URL carries its password)."""
_MASK = "***"


class Setting(Struct, frozen=True):
    """One setting as shown. `source` is `flag`, `env`, `file` or `default`."""

    name: str
    value: str
    source: str
    meaning: str

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return PREFIX + self.name.upper()


def show_config(settings: Settings, overrides: Mapping[str, object], config_file: Path | None) -> None:
    """Print all settings: for people on a terminal, else as TOML for PERSONA_CONFIG (without secrets)."""
    rows = describe_settings(settings, overrides, os.environ, config_file)
    if out.is_terminal:
        _print_for_people(rows)
        return
    for row in rows:
        # TOML knows no null, and a masked secret is no value to be read back.
        dead = "# " if row.value in {_MASK, "unset"} else ""
        out.print(f"{dead}{row.name} = {row.value}  # {row.source}. {row.meaning}", markup=False)


def describe_settings(
    settings: Settings, overrides: Mapping[str, object], env: Mapping[str, str], config_file: Path | None
) -> list[Setting]:
    """Every setting with its value as TOML and its source.

    `env` and `config_file` are those that `settings` were loaded from.
    """
    meanings = setting_meanings()
    in_file = _names_in_file(config_file or _file_named_by(env))
    return [
        Setting(
            name,
            _shown(name, getattr(settings, name)),
            _source(name, overrides, env, in_file),
            meanings[name],
        )
        for name in Settings.__struct_fields__
    ]


def setting_meanings() -> dict[str, str]:
    """What each setting means, on one line: the text below its field in `Settings`."""
    return field_meanings(Settings)


def _print_for_people(rows: list[Setting]) -> None:
    for row in rows:
        origin = "" if row.source == "default" else f"  [yellow]({row.source})[/yellow]"
        out.print(f"[bold]{row.name}[/bold] = [green]{_escaped(row.value)}[/green]{origin}")
        out.print(f"    [dim]{row.variable}[/dim]  {_escaped(row.meaning)}")


def _escaped(text: str) -> str:
    return text.replace("[", "\\[")


def _shown(name: str, value: object) -> str:
    if value is None:
        return "unset"
    if name in SECRETS and value:
        return _MASK
    # A JSON string, number or boolean is a TOML one.
    return msgspec.json.encode(str(value) if isinstance(value, Path) else value).decode()


def _source(name: str, overrides: Mapping[str, object], env: Mapping[str, str], in_file: frozenset[str]) -> str:
    variable = PREFIX + name.upper()
    if name in overrides:
        return "flag"
    # As Settings.load has it: an empty variable counts only where empty means something.
    if env.get(variable) or (variable in env and name in {"kafka", "redis_url"}):
        return "env"
    return "file" if name in in_file else "default"


def _file_named_by(env: Mapping[str, str]) -> Path | None:
    return Path(env["PERSONA_CONFIG"]) if env.get("PERSONA_CONFIG") else None


def _names_in_file(path: Path | None) -> frozenset[str]:
    return frozenset() if path is None else frozenset(tomllib.loads(path.read_text(encoding="utf-8")))
