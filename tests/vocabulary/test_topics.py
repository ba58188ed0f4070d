"""Topic names and settings, and the settings they follow."""

from pathlib import Path

import pytest

from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import ConfigError
from persona_stream.vocabulary.topics import TABLES, Topics, topic_specs


def test_every_topic_is_of_the_namespace_and_named_once() -> None:
    specs = {spec.name: spec for spec in topic_specs(Settings(namespace="shop", partitions=3))}
    topics = Topics("shop")
    assert {topics.changelog(table) for table in TABLES} < specs.keys()
    assert all(name.startswith("shop") for name in specs)
    single = {topics.models, topics.generations}
    assert {spec.partitions for name, spec in specs.items() if name not in single} == {3}
    assert {specs[name].partitions for name in single} == {1}


def test_a_generation_of_a_table_has_a_changelog_of_its_own() -> None:
    topics = Topics("shop")
    assert topics.changelog("users", 1) == topics.changelog("users") == "shop-users-changelog"
    assert topics.changelog("users", 2) == "shop-users-changelog-g2"


def test_every_topic_is_stamped_by_kafka_and_what_is_published_is_kept() -> None:
    specs = {spec.name: spec.config for spec in topic_specs(Settings(namespace="shop"))}
    topics = Topics("shop")
    assert {config["message.timestamp.type"] for config in specs.values()} == {"LogAppendTime"}
    for name in (topics.events, topics.examples, topics.decisions, topics.deadletter, topics.late):
        assert specs[name]["retention.ms"] == "-1"
    for table in TABLES:
        assert specs[topics.changelog(table)]["cleanup.policy"] == "compact"


def test_flags_win_over_the_environment_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('http_port = 1\nnamespace = "file"\npartitions = 9\n')
    env = {"PERSONA_HTTP_PORT": "2", "PERSONA_NAMESPACE": "env"}
    found = Settings.load({"http_port": 3}, env=env, config_file=file)
    assert (found.http_port, found.namespace, found.partitions) == (3, "env", 9)


@pytest.mark.parametrize(
    ("env", "told"),
    [
        ({"PERSONA_HTTP_PROT": "1"}, "Did you mean PERSONA_HTTP_PORT"),
        ({"PERSONA_HTTP_PORT": "many"}, "http_port"),
        ({"PERSONA_NAMESPACE": "No Spaces"}, "namespace"),
        ({"PERSONA_PARTITIONS": "0"}, "partitions"),
    ],
)
def test_a_wrong_setting_is_named(env: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Settings.load(env=env)
