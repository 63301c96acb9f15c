"""`tsugiki audit export` and `verify`: the trail as a file proves itself, with nothing but the outsider's two files."""

import gzip
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import pytest

from cli import main as command_line
from evidence import checkpoints
from runtime import wiring
from runtime.settings import Settings
from tests.integration.conftest import Database, Department
from workers.sealer import Sealer


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Outsider:
    """Who keeps checkpoints and the public key, and has the auditor's key to export with."""

    folder: Path
    environment: dict[str, str]
    captured: "pytest.CaptureFixture[str] | None" = None

    def run(self, *arguments: str) -> Done:
        """In this process: a new one imports for a second."""
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            patch.setattr(os, "environ", self.environment)
            patch.setattr(sys, "argv", ["tsugiki", "--json", "audit", *arguments])
            with pytest.raises(SystemExit) as ended:
                command_line.main()
        assert self.captured
        said = self.captured.readouterr()
        return Done(int(ended.value.code or 0), said.out, said.err)

    def verify(self, *arguments: str) -> tuple[int, dict[str, object]]:
        kept = ("--checkpoints", "kept.jsonl", "--public-key", "key.pub.pem")
        done = self.run("verify", *arguments, *kept)
        return done.returncode, json.loads(done.stdout)


@pytest.fixture(scope="module")
def kept(
    *, department: Department, settings: Settings, auditor_key: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Outsider]:
    folder = tmp_path_factory.mktemp("outside")
    department.upload(b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n')
    secret, public = checkpoints.new_key()
    (folder / "key.pem").write_text(secret)
    (folder / "key.pub.pem").write_text(public)
    changed = {
        "audit_signing_key_file": folder / "key.pem", "audit_checkpoint_file": folder / "kept.jsonl",
        "s3_audit_bucket": "locked-for-an-outsider",
    }  # fmt: skip
    runtime = wiring.build(settings.model_copy(update=changed))
    runtime.locked.ensure_bucket()
    sealer = Sealer(runtime, Event())
    sealer.seal()
    sealer.checkpoint()
    (folder / "segments").mkdir()
    segment = runtime.locked.read("checkpoints/00000001.seals.gz")
    (folder / "segments" / "00000001.seals.gz").write_bytes(segment)
    environment = {"TSUGIKI_BASE_URL": department.api_url, "TSUGIKI_API_KEY": auditor_key, "PATH": os.environ["PATH"]}
    yield Outsider(folder, environment)
    runtime.close()


@pytest.fixture
def outsider(kept: Outsider, capsys: pytest.CaptureFixture[str]) -> Outsider:
    return Outsider(kept.folder, kept.environment, capsys)


def test_an_outsider_verifies_an_export_and_the_database(outsider: Outsider, database: Database) -> None:
    assert outsider.run("export", "-o", "trail.ndjson").returncode == 0
    again = outsider.run("export", "-o", "trail.ndjson")
    assert again.returncode == 1
    assert "trail.ndjson" in again.stderr
    status, said = outsider.verify("--export", "trail.ndjson")
    assert (status, said["result"], said["first_bad"], said["checkpoints"]) == (0, "whole", None, 1)
    by_database, told = outsider.verify(
        "--database-url", database.admin_url, "--segments", "segments", "--processes", "1"
    )
    assert (by_database, told["result"]) == (0, "whole")

    trail = outsider.folder / "trail.ndjson"
    lines = trail.read_text().splitlines(keepends=True)
    place = next(number for number, line in enumerate(lines) if '"action":"file.created"' in line)
    number = json.loads(lines[place])["event"]["number"]
    damaged: dict[str, Callable[[], list[str]]] = {
        "changed": lambda: [*lines[:place], lines[place].replace("success", "denied"), *lines[place + 1 :]],
        "gone": lambda: [*lines[:place], *lines[place + 1 :]],
        "gone with the seals": lambda: [
            line for line in lines if '"seal":' not in line and f'"number":{number},' not in line
        ],
    }
    for how, change in damaged.items():
        trail.write_text("".join(change()))
        status, said = outsider.verify("--export", "trail.ndjson", "--segments", "segments")
        assert (status, said["result"], said["first_bad"]) == (1, "tampered", number), how


def test_what_cannot_be_verified_is_said_and_not_passed(outsider: Outsider) -> None:
    assert outsider.run("export", "-o", "part.ndjson", "--action", "file.created").returncode == 0
    (outsider.folder / "empty.ndjson").write_bytes(b"")
    (outsider.folder / "packed.ndjson").write_bytes(gzip.compress((outsider.folder / "part.ndjson").read_bytes()))
    known = ("--checkpoints", "kept.jsonl", "--public-key", "key.pub.pem")
    for arguments, words in (
        (("verify", "--export", "part.ndjson"), "no export of the whole trail"),
        (("verify",), "--database-url"),
        (("verify", "--export", "part.ndjson", "--checkpoints", "kept.jsonl"), "--public-key"),
        (("verify", "--export", "missing.ndjson"), "missing.ndjson"),
        (("verify", "--export", "part.ndjson", "--checkpoints", "kept.jsonl", "--public-key", "key.pem"), "no Ed25519"),
        (("verify", "--export", "empty.ndjson"), "is empty"),
        (("verify", "--export", "packed.ndjson", *known), "has to be unpacked"),
        (("verify", "--export", "part.ndjson", "--checkpoints", "packed.ndjson", *known[2:]), "no file of checkpoints"),
        (("verify", "--export", "part.ndjson", *known[:3], "packed.ndjson"), "packed.ndjson holds no Ed25519"),
        (("verify", "--database-url", "postgresql://nobody@127.0.0.1:1/x"), "cannot be reached"),
    ):
        refused = outsider.run(*arguments)
        assert refused.returncode == 1, arguments
        assert words in refused.stderr, (arguments, refused.stderr)
        assert "Traceback" not in refused.stderr


def test_questions_are_asked_at_the_command_line(outsider: Outsider, department: Department) -> None:
    names = {query["id"] for query in json.loads(outsider.run("query").stdout)}
    assert "not_done" in names
    asked = outsider.run("query", "counts", "--department", department.name, "--days", "1")
    answer = json.loads(asked.stdout)
    assert ["file.created", "success", 1] in [row[1:] for row in answer["rows"]]
    refused = outsider.run("query", "trained_on_file")
    assert refused.returncode == 1
    assert "missing_field" in refused.stderr
