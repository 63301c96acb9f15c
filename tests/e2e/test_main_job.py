"""The main job on real parts: a real base model, two ranks, PostgreSQL, Valkey, S3, and peft as the judge."""

import io
import json
import tarfile
import time
from base64 import b64decode
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import openai
import pytest
import torch
from openai.types.fine_tuning import FineTuningJob
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from signing.keys import PublicKey
from signing.verification import verify
from tests.e2e.conftest import BASE_MODEL, Department, RunningService, as_jsonl, colour_rows, make_department

pytestmark = [pytest.mark.model, pytest.mark.timeout(600)]


@dataclass(frozen=True)
class Trained:
    department: Department
    job: FineTuningJob
    version: dict[str, object]
    validation_rows: list[dict[str, object]]


def wait_for(client: openai.OpenAI, job: str, timeout_s: float = 400) -> FineTuningJob:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = client.fine_tuning.jobs.retrieve(job)
        if found.status in {"succeeded", "failed", "cancelled"}:
            return found
        time.sleep(0.5)
    pytest.fail(f"The job is still {found.status}.")


@pytest.fixture(scope="module")
def trained(service: RunningService) -> Trained:
    department = make_department(service, "colours")
    client = service.client(department.trainer_key)
    validation_rows = colour_rows(24, seed=2)
    files = {
        name: client.files.create(file=(f"{name}.jsonl", as_jsonl(rows)), purpose="fine-tune").id
        for name, rows in {
            "train": colour_rows(160, seed=1),
            "validation": validation_rows,
            "evaluation": colour_rows(24, seed=3, choices=True),
        }.items()
    }
    job = client.fine_tuning.jobs.create(
        model=BASE_MODEL,
        training_file=files["train"],
        validation_file=files["validation"],
        suffix="last-colour",
        seed=7,
        extra_body={
            "evaluation_file": files["evaluation"],
            "lora": {"rank": 8, "learning_rate": 1e-3, "max_steps": 20, "checkpoint_every_steps": 10},
        },
    )
    assert job.status == "validating_files"
    finished = wait_for(client, job.id)
    assert finished.status == "succeeded", finished.error
    with service.http(department.trainer_key) as http:
        version = http.get("/adapters/last-colour/versions/latest").raise_for_status().json()
    return Trained(department=department, job=finished, version=version, validation_rows=validation_rows)


def test_the_job_ends_with_a_version_that_its_lineage_and_audit_trail_tell_of(
    service: RunningService, trained: Trained
) -> None:
    version = trained.version
    assert (version["number"], version["state"], version["model"]) == (1, "candidate", trained.job.fine_tuned_model)
    with service.http(trained.department.trainer_key) as http:
        edges = http.get(f"/lineage/{version['id']}").raise_for_status().json()["edges"]
        events = http.get(f"/fine_tuning/jobs/{trained.job.id}/events?limit=1000").raise_for_status().json()["data"]
    assert {edge["relation"] for edge in edges} >= {
        "produced_by", "grafted_on", "trained_on", "validated_on", "evaluated_on",
    }  # fmt: skip
    losses = [event["data"]["train_loss"] for event in reversed(events) if "train_loss" in (event["data"] or {})]
    assert losses[-1] < losses[0] / 2
    with service.http(service.auditor_key) as auditor:
        story = auditor.get(f"/organization/audit_logs?resource_ids[]={trained.job.id}&limit=100").json()["data"]
    told = [event["type"] for event in reversed(story)]
    assert told[0] == "job.submitted"
    assert told[-1] == "job.succeeded"
    assert told.count("adapter.version.registered") == 1


def test_what_the_job_took_is_charged_to_its_department_at_the_workers_price(
    service: RunningService, trained: Trained
) -> None:
    job, metrics = trained.job, trained.version["metrics"]
    with service.http(trained.department.admin_key) as admin:
        sums = admin.get("/usage", params={"group_by[]": ["job", "user"]}).raise_for_status().json()["data"]
    # Beside what is stored, which is no job's.
    (used,) = [each for each in sums if each["job_id"] is not None]
    with service.http(trained.department.trainer_key) as trainer:
        assert (used["job_id"], used["user_id"]) == (job.id, trainer.get("/me").json()["id"])
    assert used["trained_tokens"] == job.trained_tokens
    # Two ranks: at least while they trained, and no longer than the job was there.
    assert job.finished_at
    assert 2 * metrics["train_s"] < used["gpu_seconds"] < 2 * (job.finished_at + 1 - job.created_at)  # type: ignore[index]
    # 3.60 an hour is a thousandth a second.
    assert used["amount"] == {"value": pytest.approx(used["gpu_seconds"] / 1000, abs=1e-6), "currency": "eur"}


def test_the_adapter_beats_the_base_model_on_rows_it_never_saw(trained: Trained) -> None:
    (evaluation,) = trained.version["evaluation"]  # type: ignore[misc]
    assert evaluation["base"]["rows"] == evaluation["adapter"]["rows"] == 24
    assert evaluation["adapter"]["accuracy"] > evaluation["base"]["accuracy"]
    assert evaluation["adapter"]["loss"] < evaluation["base"]["loss"]


# peft asks transformers under the property's old name.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_a_pulled_adapter_has_the_services_loss_under_plain_transformers_and_peft(
    service: RunningService, trained: Trained, smollm2_folder: Path, tmp_path: Path
) -> None:
    with service.http(trained.department.trainer_key) as http:
        answer = http.get("/adapters/last-colour/versions/1/content").raise_for_status()
        keys = [PublicKey.read(key["pem"].encode()) for key in http.get("/signing_keys").json()["data"]]
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
        tar.extractall(tmp_path, filter="data")
    (folder,) = {path.parent for path in tmp_path.rglob("adapter_model.safetensors")}
    # It is signed by the worker, and its provenance says what was asked for; peft is not disturbed by either.
    found = verify(folder, keys, now=datetime.now(UTC), accepted=frozenset({"candidate"}))
    assert found.holds, found.reasons
    assert found.digest == trained.version["digest"]
    assert (found.builder or "").startswith("urn:tsugiki:worker:")
    envelope = json.loads((folder / "provenance.intoto.jsonl").read_text())
    definition = json.loads(b64decode(envelope["payload"]))["predicate"]["buildDefinition"]
    assert definition["externalParameters"]["seed"] == 7
    names = [each["name"] for each in definition["resolvedDependencies"]]
    assert names[:4] == [f"base_model:{BASE_MODEL}", "training_file", "validation_file", "evaluation_file"]
    assert "package:torch" in names
    base = AutoModelForCausalLM.from_pretrained(smollm2_folder, dtype=torch.float32, local_files_only=True)
    model = PeftModel.from_pretrained(base, folder).eval()
    loss = plain_loss(model, AutoTokenizer.from_pretrained(smollm2_folder), trained.validation_rows)
    assert loss == pytest.approx(trained.version["metrics"]["validation_loss"], rel=0.01)  # type: ignore[index]


def plain_loss(model: torch.nn.Module, tokenizer: object, rows: list[dict[str, object]]) -> float:
    """Nats a supervised token, a row at a time: the answer and its end of turn, under the model's own template."""
    nats, tokens = 0.0, 0
    for row in rows:
        messages = row["messages"]
        whole = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)  # type: ignore[attr-defined]
        prompt = tokenizer.apply_chat_template(  # type: ignore[attr-defined]
            messages[:-1],
            tokenize=True,
            add_generation_prompt=True,
            return_dict=False,  # type: ignore[index]
        )
        # The template writes a line break after the end of turn, which nobody is to learn.
        supervised = len(whole) - 1 if tokenizer.decode(whole[-1]) == "\n" else len(whole)  # type: ignore[attr-defined]
        with torch.no_grad():
            logits = model(torch.tensor([whole]), use_cache=False).logits[0].log_softmax(-1)
        for place in range(len(prompt), supervised):
            nats -= logits[place - 1, whole[place]].item()
            tokens += 1
    return nats / tokens


def test_each_department_sees_only_its_own(service: RunningService, trained: Trained) -> None:
    other = make_department(service, "neighbours")
    client = service.client(other.trainer_key)
    assert list(client.fine_tuning.jobs.list()) == []
    assert list(client.files.list()) == []
    with pytest.raises(openai.NotFoundError):
        client.fine_tuning.jobs.retrieve(trained.job.id)
    with service.http(other.trainer_key) as http:
        for path in ("/adapters/last-colour", "/adapters/last-colour/versions/1/content", f"/lineage/{trained.job.id}"):
            assert http.get(path).status_code == 404


def test_a_file_that_the_base_model_cannot_learn_from_fails_the_job_before_it_queues(
    service: RunningService, trained: Trained
) -> None:
    client = service.client(trained.department.trainer_key)
    long = {"role": "user", "content": "word " * 600}
    rows = [*colour_rows(3, seed=1), {"messages": [long, {"role": "assistant", "content": "red"}]}]
    file = client.files.create(file=("long.jsonl", as_jsonl(rows)), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(model=BASE_MODEL, training_file=file.id, extra_body={"lora": {"max_steps": 1}})
    failed = wait_for(client, job.id, timeout_s=60)
    assert failed.status == "failed"
    assert failed.error is not None
    assert (failed.error.code, failed.error.param) == ("row_too_long", "training_file:4")
    assert json.dumps(failed.error.message).count("word") == 0
