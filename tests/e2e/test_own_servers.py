"""The parts of a deployment, each started by its own command against servers that somebody else runs."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import pytest
import redis
from sqlalchemy import make_url

from runtime.embedded import EmbeddedServices

TSUGIKI = str(Path(sys.executable).with_name("tsugiki"))


@pytest.fixture(scope="module")
def settings() -> Iterator[dict[str, str]]:
    """The environment that a deployment gives its processes, with an administrator for the migration."""
    with TemporaryDirectory(prefix="tsugiki-tests-") as folder:
        Path(folder).chmod(0o711)
        with EmbeddedServices(Path(folder) / "servers", durable=False) as servers:
            admin = make_url(servers.database_admin_url)
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            yield {
                "TSUGIKI_DATABASE_URL": admin.set(username="tsugiki_app", password="p%40ss w/rd").render_as_string(
                    hide_password=False
                ),
                "TSUGIKI_DATABASE_ADMIN_URL": servers.database_admin_url,
                "TSUGIKI_BROKER_URL": servers.broker_url,
                "TSUGIKI_S3_ENDPOINT": servers.s3.endpoint_url,
                "TSUGIKI_S3_ACCESS_KEY": servers.s3.access_key,
                "TSUGIKI_S3_SECRET_KEY": servers.s3.secret_key,
                "TSUGIKI_S3_BUCKET": "another-bucket",
                "TSUGIKI_CACHE_DIR": f"{folder}/cache",
                "TSUGIKI_WORK_DIR": f"{folder}/work",
                "TSUGIKI_SIGNING_KEY_FILE": f"{folder}/signing-key.pem",
                "TSUGIKI_PORT": str(port),
            }


def run(settings: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | settings
    return subprocess.run(
        [TSUGIKI, *arguments], env=environment, check=False, capture_output=True, text=True, timeout=90
    )


def test_a_first_migration_gives_two_keys_once_and_the_parts_then_answer_and_stop(
    settings: dict[str, str], tmp_path: Path
) -> None:
    keys_file = tmp_path / "keys.json"
    assert run(settings, "migrate", "--keys-file", str(tmp_path / "missing" / "keys.json")).returncode == 1
    # What could not be kept was not made: the installation is still new.
    first = run(settings, "migrate", "--keys-file", str(keys_file))
    assert first.returncode == 0, first.stderr
    assert keys_file.stat().st_mode & 0o777 == 0o600
    again = run(settings, "migrate")
    assert (again.returncode, again.stdout) == (0, "")

    # Only the migration knows the administrator.
    parts = {name: value for name, value in settings.items() if name != "TSUGIKI_DATABASE_ADMIN_URL"}
    commands = [["api"], ["worker", "train"], ["worker", "validate"], ["worker", "sweep"], ["beat"]]
    with (tmp_path / "log").open("wb") as log:
        processes = [
            subprocess.Popen([TSUGIKI, *command], env=os.environ | parts, stdout=log, stderr=log)
            for command in commands
        ]
        try:
            wait_until_ready(f"http://127.0.0.1:{settings['TSUGIKI_PORT']}", processes)
            wait_until_listening(settings["TSUGIKI_BROKER_URL"], workers=3)
            url = f"http://127.0.0.1:{settings['TSUGIKI_PORT']}/v1/me"
            key = json.loads(keys_file.read_text())["admin_key"]
            answer = httpx.get(url, headers={"Authorization": f"Bearer {key}"})
            assert answer.raise_for_status().json()["roles"] == ["operator"]
            assert [process.poll() for process in processes] == [None] * len(processes)
        finally:
            for process in processes:
                process.send_signal(signal.SIGTERM)
            ended = [process.wait(timeout=30) for process in processes]
    # uvicorn shuts down in order, then ends by the signal it was sent.
    assert ended == [-signal.SIGTERM, 0, 0, 0, 0], (tmp_path / "log").read_text()[-3000:]


def wait_until_ready(url: str, processes: list[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert [process.poll() for process in processes] == [None] * len(processes)
        with suppress(httpx.HTTPError):
            if httpx.get(f"{url}/readyz").is_success:
                return
        time.sleep(0.1)
    pytest.fail("The API does not answer.")


def wait_until_listening(broker_url: str, *, workers: int) -> None:
    """Every worker blocks on its queue: before that, SIGTERM finds a process that is still starting."""
    deadline = time.monotonic() + 120
    with redis.Redis.from_url(broker_url) as broker:
        while sum(client["cmd"] == "brpop" for client in broker.client_list()) < workers:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_a_missing_setting_is_named_and_an_unreachable_database_is_said_without_a_traceback(
    settings: dict[str, str],
) -> None:
    without = {name: value for name, value in settings.items() if name != "TSUGIKI_BROKER_URL"}
    for command in (["api"], ["worker", "train"], ["beat"], ["migrate"]):
        refused = run(without, *command)
        assert refused.returncode == 1
        assert "TSUGIKI_BROKER_URL" in refused.stderr
        assert "Traceback" not in refused.stderr
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = free.getsockname()[1]
    away = make_url(settings["TSUGIKI_DATABASE_ADMIN_URL"]).set(port=nobody).render_as_string(hide_password=False)
    refused = run(settings | {"TSUGIKI_DATABASE_ADMIN_URL": away}, "migrate")
    assert refused.returncode == 1
    assert "database cannot be reached" in refused.stderr
    assert "Traceback" not in refused.stderr
