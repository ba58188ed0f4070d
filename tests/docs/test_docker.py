"""The image and the compose file, as far as they can be checked without a container engine."""

import http.server
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from doc_blocks import ROOT

from persona_stream.cli.commands import app
from persona_stream.vocabulary.config import Settings

DOCKER = ROOT / "docker"
ROLES = {"worker": "worker", "server": "serve", "mirror": "mirror", "trainer": "train"}


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    return found


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions and their arguments, continuation lines joined."""
    text = re.sub(r"\\\n\s*", "", (DOCKER / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines)]


def final_stage() -> list[tuple[str, str]]:
    all_of_it = instructions()
    last = max(at for at, (name, _) in enumerate(all_of_it) if name == "FROM")
    return all_of_it[last:]


def test_the_services_are_the_roles_and_their_commands_exist(services: dict[str, Any]) -> None:
    assert {name: service["command"][0] for name, service in services.items()} == ROLES
    for service in services.values():
        command, *arguments = service["command"]
        _, bound, _ = app.parse_args([command, *arguments], exit_on_error=False, print_error=False)
        assert bound is not None


def test_every_service_runs_unprivileged_on_a_read_only_file_system(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["user"].split(":")[0] not in {"0", "root"}, name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        home = dict(final_env())["PERSONA_HOME"]
        assert any(mount.startswith(f"{home}:") for mount in service["tmpfs"]), name


def test_every_service_has_a_health_check_and_time_to_stop(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert re.fullmatch(r"\d+s", service["stop_grace_period"]), name


def test_kafka_and_redis_must_be_named(services: dict[str, Any]) -> None:
    for service in services.values():
        for variable in ("PERSONA_KAFKA", "PERSONA_REDIS_URL"):
            assert service["environment"][variable].startswith(f"${{{variable}:?")


def test_the_environment_holds_settings_only(services: dict[str, Any]) -> None:
    env = {name: value for name, value in final_env() if name.startswith("PERSONA_")}
    Settings.load(env=env)
    for service in services.values():
        plain = {name: re.sub(r"\$\{\w+:-(.*)\}", r"\1", value) for name, value in service["environment"].items()}
        Settings.load(env={name: value for name, value in plain.items() if not value.startswith("$")} | env)


def test_the_port_is_published_on_loopback_alone(services: dict[str, Any]) -> None:
    assert services["server"]["ports"] == ["127.0.0.1:8080:8080"]
    assert not any("ports" in service for name, service in services.items() if name != "server")


def test_the_image_is_built_in_stages_and_runs_unprivileged() -> None:
    assert sum(name == "FROM" for name, _ in instructions()) == 2
    last = dict(final_stage())
    assert last["USER"].split(":")[0] not in {"0", "root"}
    assert last["ENTRYPOINT"] == '["persona-stream"]'
    assert "healthcheck.py" in last["HEALTHCHECK"]
    assert any("uv sync --frozen --no-dev" in rest for name, rest in instructions() if name == "RUN")


def test_what_the_image_copies_exists_and_is_not_ignored() -> None:
    kept = {line[1:] for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"}
    copied = [
        source
        for name, rest in instructions()
        if name == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    ]
    assert "persona_stream" in copied
    assert {source for source in copied if not (ROOT / source).exists()} == set()
    assert set(copied) == kept


def test_the_packages_of_the_wheel_are_copied() -> None:
    for package in ("persona_stream", "agents", "tables", "models"):
        assert ("COPY", f"{package} {package}") in instructions()


def final_env() -> Iterator[tuple[str, str]]:
    for name, rest in final_stage():
        if name == "ENV":
            for pair in rest.split():
                variable, _, value = pair.partition("=")
                yield variable, value


@pytest.mark.parametrize(("answer", "exit_code"), [(200, 0), (503, 1)])
def test_the_health_check_follows_the_role_that_listens(answer: int, exit_code: int) -> None:
    asked: list[str] = []

    class Probe(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(answer)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Probe) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert check_health(PERSONA_HTTP_PORT=str(server.server_port)) == exit_code
        assert check_health(PERSONA_WORKER_PORT=str(server.server_port)) == exit_code
        assert check_health(PERSONA_MIRROR_PORT=str(server.server_port)) == exit_code
        server.shutdown()
    assert asked == ["/readyz", "/livez", "/livez"]


def test_the_health_check_fails_where_nothing_listens() -> None:
    assert check_health() == 1


def check_health(**listening: str) -> int:
    script = str(Path(DOCKER) / "healthcheck.py")
    nobody = dict.fromkeys(("PERSONA_HTTP_PORT", "PERSONA_WORKER_PORT", "PERSONA_MIRROR_PORT"), "1")
    env = os.environ | nobody | listening
    return subprocess.run([sys.executable, script], env=env, timeout=30, check=False).returncode
