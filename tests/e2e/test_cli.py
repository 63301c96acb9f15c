"""The command line against a running service: one department's whole way, from its first key to a pulled adapter."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from domain.attestations import ATTESTATION_FILES
from domain.digests import Manifest, manifest_of_tree
from tests.e2e.conftest import BASE_MODEL, RunningService, as_jsonl, colour_rows

pytestmark = [pytest.mark.model, pytest.mark.timeout(600)]

Tsugiki = Callable[..., subprocess.CompletedProcess[str]]


def command_line(service: RunningService, key: str) -> Tsugiki:
    environment = os.environ | {"TSUGIKI_BASE_URL": service.base_url, "TSUGIKI_API_KEY": key}

    def run(*arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).with_name("tsugiki")), *arguments]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=500)
        assert ended.returncode == status, ended.stderr
        return ended

    return run


def as_json(tsugiki: Tsugiki, *arguments: str) -> Any:
    return json.loads(tsugiki(*arguments, "--json").stdout)


@dataclass(frozen=True)
class Staff:
    operator: Tsugiki
    admin: Tsugiki
    trainer: Tsugiki
    auditor: Tsugiki


@pytest.fixture(scope="module")
def staff(service: RunningService) -> Staff:
    """A department opened with the command line alone."""
    operator = command_line(service, service.admin_key)
    operator("departments", "create", "shipping")
    for role in ("admin", "trainer"):
        operator("users", "create", f"{role}@shipping.example", "--name", role)
    operator("members", "add", "admin@shipping.example", "--role", "department_admin", "--department", "shipping")
    secret = operator("keys", "create", "--user", "admin@shipping.example", "--department", "shipping").stdout.strip()
    admin = command_line(service, secret)
    admin("members", "add", "trainer@shipping.example", "--role", "trainer", "--role", "data_steward")
    secret = admin("keys", "create", "--user", "trainer@shipping.example").stdout.strip()
    return Staff(operator, admin, command_line(service, secret), command_line(service, service.auditor_key))


@pytest.fixture(scope="module")
def job(staff: Staff, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A job submitted from local files and watched to its end."""
    folder = tmp_path_factory.mktemp("rows")
    (folder / "train.jsonl").write_bytes(as_jsonl(colour_rows(64, seed=1)))
    (folder / "held-out.jsonl").write_bytes(as_jsonl(colour_rows(8, seed=2, choices=True)))
    ended: dict[str, Any] = as_json(
        staff.trainer, "jobs", "submit", "--model", BASE_MODEL, "--train", str(folder / "train.jsonl"),
        "--evaluation", str(folder / "held-out.jsonl"), "--suffix", "last-colour", "--max-steps", "6", "--watch",
    )  # fmt: skip
    return ended


def test_a_key_says_whom_it_acts_for(staff: Staff) -> None:
    assert as_json(staff.trainer, "whoami")["roles"] == ["data_steward", "trainer"]
    assert "trainer@shipping.example" in staff.admin("members", "list").stdout
    assert [item["name"] for item in as_json(staff.operator, "departments", "list")].count("shipping") == 1


def test_a_robot_gets_a_key_that_works_until_the_robot_is_deleted(service: RunningService, staff: Staff) -> None:
    made = as_json(staff.admin, "service-accounts", "create", "pipeline", "--role", "viewer")
    robot = command_line(service, made["api_key"]["value"])
    assert as_json(robot, "whoami")["roles"] == ["viewer"]
    staff.admin("service-accounts", "delete", made["id"])
    assert robot("whoami", status=1).stderr.endswith("(code invalid_api_key)\n")


def test_adding_the_same_base_model_again_sends_nothing(staff: Staff, smollm2_folder: Path) -> None:
    again = staff.operator("base-models", "add", BASE_MODEL, "--from", str(smollm2_folder))
    assert "is ready: sha256:" in again.stdout
    assert "model.safetensors" not in again.stdout


def test_the_watched_job_has_succeeded_and_its_story_is_told_in_order(staff: Staff, job: dict[str, Any]) -> None:
    assert (job["status"], job["adapter"]["name"], job["lora"]["total_steps"]) == ("succeeded", "last-colour", 6)
    events = [event["message"] for event in as_json(staff.trainer, "jobs", "events", job["id"])]
    assert events[0] == "Created fine-tuning job."
    assert events[-1] == "The job has successfully completed."
    assert job["id"] in staff.trainer("jobs", "list").stdout


def test_the_next_job_is_foretold_by_what_this_one_came_to(staff: Staff, job: dict[str, Any], tmp_path: Path) -> None:
    thought, came = job["estimate"], job["actual"]
    assert thought["adapter_bytes"] == came["adapter_bytes"]
    assert came["trained_tokens"] == pytest.approx(thought["trained_tokens"], rel=0.05)
    (tmp_path / "more.jsonl").write_bytes(as_jsonl(colour_rows(64, seed=3)))
    described = ("--model", BASE_MODEL, "--train", str(tmp_path / "more.jsonl"), "--max-steps", "6")
    found = as_json(staff.trainer, "jobs", "estimate", *described)
    assert (found["status"], found["allowed_to_proceed"], found["reasons"]) == ("ready", True, [])
    figures = found["estimate"]
    # Other tests of this service may have trained as well.
    assert figures["measured_runs"] >= 1
    assert (figures["device"], figures["queue_position"]) == (came["device"], 1)
    assert figures["seconds"] > 0
    assert figures["peak_memory_bytes"] >= came["peak_memory_bytes"]
    # The one worker is free.
    assert figures["expected_start"] == figures["made_at"]
    assert staff.trainer("jobs", "accuracy").stdout.count(BASE_MODEL) >= 2
    shown = staff.trainer("jobs", "show", job["id"]).stdout
    assert "estimated" in shown
    assert "in fact" in shown


def test_a_pulled_version_is_the_one_its_digest_names(staff: Staff, job: dict[str, Any], tmp_path: Path) -> None:
    version = as_json(staff.trainer, "adapters", "pull", "last-colour@latest", "--out", str(tmp_path / "adapter"))
    files = [file for file in manifest_of_tree(tmp_path / "adapter").files if file.path not in ATTESTATION_FILES]
    assert Manifest.of(files).digest == version["digest"]
    assert version["job_id"] == job["id"]
    refused = staff.trainer("adapters", "pull", "last-colour@1", "--out", str(tmp_path / "adapter"), status=1)
    assert "is not an empty folder" in refused.stderr


def test_a_pulled_version_is_verified_offline_and_one_byte_more_is_told(
    service: RunningService, staff: Staff, job: dict[str, Any], tmp_path: Path
) -> None:
    folder, key = tmp_path / "adapter", tmp_path / "service.pub"
    staff.trainer("adapters", "pull", f"{job['adapter']['name']}@1", "--out", str(folder))
    key.write_text(staff.trainer("signing-key").stdout)
    # Nothing answers there.
    offline = command_line(replace(service, base_url="http://127.0.0.1:9/v1"), "tsk_none")
    asked = ("verify", str(folder), "--public-key", str(key))
    found = as_json(offline, *asked, "--accept", "candidate")
    assert (found["holds"], found["state"], found["reasons"]) == (True, "candidate", [])
    assert found["builder"].startswith("urn:tsugiki:worker:")
    # A candidate is not what a server takes.
    assert "version_not_approved" in offline(*asked, status=1).stdout
    with (folder / "adapter_model.safetensors").open("ab") as weights:
        weights.write(b"x")
    assert "checksum_mismatch" in offline(*asked, "--accept", "candidate", status=1).stdout


def test_an_adapter_from_elsewhere_is_proposed_and_a_pickle_is_not(
    staff: Staff, job: dict[str, Any], tmp_path: Path
) -> None:
    pulled, folder = tmp_path / "pulled", tmp_path / "peft"
    staff.trainer("adapters", "pull", f"{job['adapter']['name']}@1", "--out", str(pulled))
    folder.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (folder / name).write_bytes((pulled / name).read_bytes())
    (folder / "README.md").write_text("As peft writes it.")
    described = ("adapters", "import", str(folder), "--name", "brought", "--base-model", BASE_MODEL)
    version = as_json(staff.trainer, *described)
    assert (version["number"], version["state"], version["job_id"]) == (1, "candidate", None)
    assert "brought@1" in staff.trainer("adapters", "show", "brought@1").stdout
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04.")
    refused = staff.trainer(*described, status=1)
    assert refused.stderr.endswith("(code forbidden_file, param adapter_model.bin)\n")


def test_lineage_and_audit_lead_from_the_version_to_its_rows(staff: Staff, job: dict[str, Any]) -> None:
    assert "trained on  train.jsonl" in staff.trainer("lineage", job["adapter"]["id"]).stdout
    assert "trained  last-colour@1" in staff.trainer("lineage", job["training_file"]).stdout
    told = as_json(staff.auditor, "audit", "--resource", job["id"], "--department", "shipping")
    assert {"job.submitted", "job.succeeded"} <= {event["type"] for event in told}


def test_what_the_service_refuses_is_one_line(staff: Staff) -> None:
    refused = staff.operator("departments", "create", "shipping", status=1)
    assert refused.stderr == "error: There is a department of that name. (code name_taken, param name)\n"
    refused = staff.trainer("jobs", "show", "ftjob-" + "0" * 32, status=1)
    assert refused.stderr == "error: No such fine-tuning job. (code not_found)\n"
    refused = staff.trainer("departments", "create", "mine", status=1)
    assert "(code permission_denied)" in refused.stderr
