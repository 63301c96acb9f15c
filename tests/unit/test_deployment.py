"""What can be said of docker-compose.yml and the Dockerfiles without starting a container."""

import re
import shlex
import subprocess
import sys
import sysconfig
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from runtime.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILES = sorted((ROOT / "infra").glob("Dockerfile.*"))
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text())["services"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
OURS = [name for name, service in SERVICES.items() if "build" in service]
# Ranks run as these containers' user, and a check's process would show them the container's secrets.
# The sweeper tells of a sealer that is behind.
UNCHECKED = {"worker", "validator", "sealer"}
ONE_OFF = {"migrations"}
BIN = Path(sysconfig.get_path("scripts"))
SECRET = re.compile(r"password|secret|token|access_key", re.IGNORECASE)


def _instructions(dockerfile: Path) -> list[list[str]]:
    """The instructions, each as its words; continued lines are joined, comments left out."""
    lines = [line for line in dockerfile.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [line.split() for line in joined.splitlines() if line.strip()]


# --- docker-compose.yml -----------------------------------------------------------------------------------------------


def _validate(path: Path) -> int:
    command = [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", path]
    return subprocess.run(command, check=False, capture_output=True).returncode


def test_it_is_valid_by_the_compose_specification(tmp_path: Path) -> None:
    assert _validate(COMPOSE) == 0
    broken = tmp_path / "docker-compose.yml"
    broken.write_text(COMPOSE.read_text().replace("read_only: true", "readonly: true"))
    assert _validate(broken) != 0


@pytest.mark.parametrize("name", OURS)
def test_every_setting_given_exists_and_every_needed_one_is_given(name: str) -> None:
    given = {variable.removeprefix("TSUGIKI_").lower() for variable in SERVICES[name]["environment"]}
    assert given <= set(Settings.model_fields)
    assert given >= {field for field, info in Settings.model_fields.items() if info.is_required()}


def test_the_given_values_are_ones_that_the_settings_take(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OURS:
        for variable, value in SERVICES[name]["environment"].items():
            monkeypatch.setenv(variable, re.sub(r"\$\{\w+(?::-(\w+)|:\?)\}", lambda found: found[1] or "x", value))
        Settings()  # type: ignore[call-arg]


def test_the_administrator_of_the_database_is_known_to_the_migrations_alone() -> None:
    holders = {name for name in OURS if "TSUGIKI_DATABASE_ADMIN_URL" in SERVICES[name]["environment"]}
    assert holders == {"migrations"}


@pytest.mark.parametrize("name", SERVICES)
def test_an_image_is_pinned_to_a_version(name: str) -> None:
    image, _, tag = SERVICES[name]["image"].partition("@")[0].partition(":")
    assert re.fullmatch(r"\d+\.\d+(\.\d+)?(-[\w.]+)?", tag), image
    if name in OURS:
        assert tag == PROJECT["project"]["version"]


@pytest.mark.parametrize("name", sorted(set(SERVICES) - ONE_OFF))
def test_what_runs_for_long_is_checked_and_started_again(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    assert check == {"disable": True} if name in UNCHECKED else check["test"] and check["interval"]
    assert SERVICES[name]["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_has_no_more_rights_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    user, group = service["user"].split(":")
    assert int(user) > 0
    assert int(group) > 0
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "pid", "ipc", "network_mode"} & set(service)
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}


@pytest.mark.parametrize("name", OURS)
def test_a_volume_is_mounted_where_the_image_has_a_folder_of_the_users(name: str) -> None:
    service = SERVICES[name]
    dockerfile = ROOT / service["build"]["dockerfile"]
    (made,) = [words for words in _instructions(dockerfile) if words[0] == "RUN" and "-d" in words]
    mounted = {volume.split(":")[1] for volume in service.get("volumes", ())}
    assert mounted <= set(made[made.index("-d") :])


def test_the_api_alone_is_published_and_on_loopback() -> None:
    assert {name for name, service in SERVICES.items() if "ports" in service} == {"api"}
    assert all(port.startswith("127.0.0.1:") for port in SERVICES["api"]["ports"])
    inside = yaml.safe_load(COMPOSE.read_text())["networks"]["backend"]
    assert inside == {"internal": True}
    assert {name for name, service in SERVICES.items() if service["networks"] != ["backend"]} == {"api"}


def test_nothing_starts_before_the_schema_is_there() -> None:
    for name in set(OURS) - ONE_OFF:
        assert SERVICES[name]["depends_on"]["migrations"] == {"condition": "service_completed_successfully"}


def test_a_worker_has_gpus_and_the_time_to_checkpoint() -> None:
    worker = SERVICES["worker"]
    (device,) = worker["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert device["count"] == worker["environment"]["TSUGIKI_RANKS"]
    assert float(worker["stop_grace_period"].removesuffix("s")) > float(worker["environment"]["TSUGIKI_STOP_GRACE_S"])


def test_no_secret_stands_in_the_file() -> None:
    for name, service in SERVICES.items():
        for variable, value in service["environment"].items():
            if SECRET.search(variable) or "@" in value:
                assert re.search(r"\$\{\w+:\?\}", value), f"{name} {variable}"


def test_the_example_names_every_variable_and_gives_no_secret() -> None:
    asked = set(re.findall(r"\$\{(\w+):\?", COMPOSE.read_text()))
    optional = dict(re.findall(r"\$\{(\w+):-(\w+)\}", COMPOSE.read_text()))
    lines = (ROOT / ".env.example").read_text().splitlines()
    assert {line.removesuffix("=") for line in lines if not line.startswith("#")} == asked
    assert dict(line[1:].split("=") for line in lines if line.startswith("#") and "=" in line) == optional
    assert ".env" in (ROOT / ".gitignore").read_text().split()


def test_the_object_store_reports_to_nobody_and_keeps_its_open_ports_to_itself() -> None:
    command = SERVICES["seaweedfs"]["command"]
    assert {"-master.telemetry=false", "-ip.bind=127.0.0.1", "-s3.ip.bind=0.0.0.0"} <= set(command)


def test_the_broker_is_durable_forgets_nothing_and_asks_for_a_password() -> None:
    script = SERVICES["valkey"]["command"][-1]
    assert {"appendonly yes", "appendfsync everysec", "maxmemory-policy noeviction"} <= set(script.splitlines())
    assert "requirepass $$VALKEY_PASSWORD" in script


# --- Dockerfiles ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint_has_nothing_to_say(dockerfile: Path) -> None:
    found = subprocess.run([BIN / "hadolint", dockerfile], check=False, capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, "")


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_is_built_in_stages_from_pinned_bases_and_runs_as_nobody_special(dockerfile: Path) -> None:
    instructions = _instructions(dockerfile)
    bases = [words[1] for words in instructions if words[0] == "FROM"]
    assert len(bases) >= 2
    assert all(re.fullmatch(r"python:3\.11\.\d+-slim-\w+", base) for base in bases)
    (user,) = [words[1] for words in instructions if words[0] == "USER"]
    assert user == SERVICES["api"]["user"]
    assert any(words[0] == "HEALTHCHECK" for words in instructions)


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_what_an_image_copies_is_there_and_is_let_in(dockerfile: Path) -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [
        source
        for words in _instructions(dockerfile)
        if words[0] == "COPY" and not words[1].startswith("--from")
        for source in words[1:-1]
    ]
    for source in copied:
        assert (ROOT / source).exists(), source
        assert source in let_in, source
    packages = {name.removesuffix("*") for name in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert packages <= set(copied)


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_holds_no_secret(dockerfile: Path) -> None:
    for words in _instructions(dockerfile):
        if words[0] in {"ARG", "ENV"}:
            assert not SECRET.search(" ".join(words)), words
    assert "*" in (ROOT / ".dockerignore").read_text().splitlines()


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_starts_a_console_script_of_ours(dockerfile: Path) -> None:
    (entry,) = [words[1:] for words in _instructions(dockerfile) if words[0] == "ENTRYPOINT"]
    assert entry == [f'["{next(iter(PROJECT["project"]["scripts"]))}"]']


@pytest.mark.parametrize("name", OURS)
def test_the_command_is_one_that_tsugiki_has(name: str) -> None:
    subcommand = SERVICES[name]["command"][0]
    shown = subprocess.run([sys.executable, "-m", "cli.main", subcommand, "--help"], cwd=ROOT, check=False)
    assert shown.returncode == 0, shlex.join(SERVICES[name]["command"])


def test_an_installation_from_a_wheel_has_every_file_that_is_no_python() -> None:
    packages = [name.removesuffix("*") for name in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]]
    data = PROJECT["tool"]["setuptools"]["package-data"]
    for package in packages:
        for path in (ROOT / package).rglob("*"):
            if path.is_dir() or path.suffix in {".py", ".pyc"}:
                continue
            module = ".".join(path.relative_to(ROOT).parts[:-1])
            assert any(fnmatch(path.name, pattern) for pattern in data.get(module, [])), path
