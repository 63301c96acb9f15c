"""The official client, unmodified, on the whole way: files, jobs, models, departments, keys, the audit trail."""

import openai
import pytest

from tests.integration.conftest import Department, rows


def test_a_script_of_the_official_client_uploads_submits_and_looks(department: Department, base_model: str) -> None:
    client = department.client()
    file = client.files.create(file=("train.jsonl", rows(16)), purpose="fine-tune")
    assert (file.object, file.filename, file.purpose, file.status) == ("file", "train.jsonl", "fine-tune", "processed")
    assert client.files.wait_for_processing(file.id).bytes == len(rows(16))
    assert client.files.content(file.id).read() == rows(16)

    job = client.fine_tuning.jobs.create(
        model=base_model,
        training_file=file.id,
        suffix="even",
        seed=7,
        metadata={"team": "numbers"},
        method={"type": "supervised", "supervised": {"hyperparameters": {"batch_size": 4, "n_epochs": 2}}},
        extra_body={"lora": {"rank": 16}},
    )
    assert (job.object, job.status, job.model, job.seed) == ("fine_tuning.job", "validating_files", base_model, 7)
    assert job.hyperparameters.batch_size == 4
    assert job.lora["rank"] == 16  # type: ignore[attr-defined]
    assert job.lora["total_steps"] == 8  # type: ignore[attr-defined]
    assert client.fine_tuning.jobs.retrieve(job.id).id == job.id
    assert [found.id for found in client.fine_tuning.jobs.list(metadata={"team": "numbers"})] == [job.id]
    assert list(client.fine_tuning.jobs.list(metadata={"team": "letters"})) == []
    assert [event.message for event in client.fine_tuning.jobs.list_events(job.id)] == ["Created fine-tuning job."]
    assert list(client.fine_tuning.jobs.checkpoints.list(job.id)) == []
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    assert [model.id for model in client.models.list()] == [base_model]
    assert client.models.retrieve(base_model).owned_by == "acme"
    with pytest.raises(openai.NotFoundError):
        client.models.delete(base_model)
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)
