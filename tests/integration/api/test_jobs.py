from collections.abc import Callable
from typing import Any

import openai
import pytest

from tests.integration.api.conftest import METRICS
from tests.integration.conftest import Department, rows


@pytest.fixture(scope="module")
def file(department: Department) -> str:
    return department.upload(rows(8))


def test_a_repeated_submit_is_one_job(department: Department, base_model: str, file: str) -> None:
    body = {"model": base_model, "training_file": file, "suffix": "repeated"}
    with department.http() as client:
        first = client.post("/fine_tuning/jobs", json=body).json()["id"]
        again = client.post("/fine_tuning/jobs", json=body, headers={"x-stainless-retry-count": "1"}).json()["id"]
        other = client.post("/fine_tuning/jobs", json=body | {"seed": 1}, headers={"x-stainless-retry-count": "1"})
        meant = client.post("/fine_tuning/jobs", json=body, headers={"x-stainless-retry-count": "0"}).json()["id"]
    assert again == first
    assert len({first, meant, other.json()["id"]}) == 3


def test_jobs_are_listed_newest_first_a_page_at_a_time(
    make_department: Callable[[], Department], base_model: str
) -> None:
    department = make_department()
    client, file = department.client(), department.upload(rows(4))
    made = [
        client.fine_tuning.jobs.create(model=base_model, training_file=file, metadata={"place": str(place % 2)}).id
        for place in range(5)
    ]
    assert [job.id for job in client.fine_tuning.jobs.list(limit=2)] == made[::-1]
    assert [job.id for job in client.fine_tuning.jobs.list(limit=2, metadata={"place": "0"})] == made[::-2]
    page = client.fine_tuning.jobs.list(limit=3)
    assert (page.has_more, len(page.data)) == (True, 3)


def test_cancelling_twice_is_a_conflict_that_the_client_does_not_repeat(
    department: Department, base_model: str, file: str
) -> None:
    client = department.client().with_options(max_retries=2)
    job = client.fine_tuning.jobs.create(model=base_model, training_file=file)
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    with pytest.raises(openai.ConflictError) as refused:
        client.fine_tuning.jobs.cancel(job.id)
    assert (refused.value.code, refused.value.type, refused.value.param) == ("already_finished", "conflict_error", None)
    assert refused.value.request.headers["x-stainless-retry-count"] == "0"


def test_a_trainer_cancels_own_jobs_and_an_admin_any(department: Department, base_model: str, file: str) -> None:
    job = department.client().fine_tuning.jobs.create(model=base_model, training_file=file)
    other = department.member("trainer")
    with pytest.raises(openai.PermissionDeniedError):
        department.client(other).fine_tuning.jobs.cancel(job.id)
    assert department.client(department.admin).fine_tuning.jobs.cancel(job.id).status == "cancelled"


def test_a_trainer_pauses_and_resumes_own_jobs_and_an_admin_any(
    department: Department, base_model: str, file: str
) -> None:
    jobs = department.client().fine_tuning.jobs
    job = jobs.create(model=base_model, training_file=file).id
    other = department.client(department.member("trainer")).fine_tuning.jobs
    admin = department.client(department.admin).fine_tuning.jobs
    for refused in (other.pause, other.resume):
        with pytest.raises(openai.PermissionDeniedError):
            refused(job)
    # Its files are still to be looked at.
    assert jobs.pause(job).status == "validating_files"
    assert admin.resume(job).status == "validating_files"
    jobs.cancel(job)
    for refused in (jobs.pause, jobs.resume):
        with pytest.raises(openai.ConflictError) as ended:
            refused(job)
        assert ended.value.code == "already_finished"


def test_errors_are_the_clients_own_classes_with_code_and_param(
    department: Department, base_model: str, file: str
) -> None:
    client = department.client()
    with pytest.raises(openai.BadRequestError) as bad:
        client.fine_tuning.jobs.create(model="gpt-4", training_file=file)
    assert (bad.value.code, bad.value.param, bad.value.type) == ("unknown_base_model", "model", "invalid_request_error")
    assert bad.value.request_id
    with pytest.raises(openai.NotFoundError) as missing:
        client.fine_tuning.jobs.retrieve("ftjob-" + "0" * 32)
    assert missing.value.code == "not_found"
    with pytest.raises(openai.AuthenticationError) as unknown:
        client.with_options(api_key="sk-nothing").fine_tuning.jobs.list()
    assert unknown.value.code == "invalid_api_key"
    with pytest.raises(openai.PermissionDeniedError) as denied:
        department.client(department.admin).fine_tuning.jobs.create(model=base_model, training_file=file)
    assert denied.value.code == "permission_denied"


def test_a_job_keeps_what_was_chosen_for_it(department: Department, base_model: str, file: str) -> None:
    body = {"model": base_model, "training_file": file, "validation_file": file}
    with department.http() as client:
        job = client.post("/fine_tuning/jobs", json=body).json()
    assert job["hyperparameters"] == {"batch_size": "auto", "n_epochs": "auto", "learning_rate_multiplier": "auto"}
    assert job["method"] == {"type": "supervised", "supervised": {"hyperparameters": job["hyperparameters"]}}
    # 8 rows in batches of 8, three times; the tiny model's width is below the narrowest measured one.
    assert (job["lora"]["total_steps"], job["lora"]["n_epochs"], job["lora"]["learning_rate"]) == (3, 3, 1e-3)
    assert (job["lora"]["rank"], job["lora"]["alpha"], job["lora"]["max_seq_len"]) == (8, 16.0, 256)
    assert 0 <= job["seed"] < 2**31
    assert job["project_id"] == department.id
    assert job["validation_file"] == file
    assert job["fine_tuned_model"] is job["finished_at"] is job["error"] is job["adapter"] is None
    assert job["result_files"] == job["integrations"] == []


def test_a_page_says_where_it_begins_and_ends(department: Department) -> None:
    with department.http() as client:
        page = client.get("/fine_tuning/jobs", params={"limit": 1}).json()
        assert page["first_id"] == page["last_id"] == page["data"][0]["id"]
        assert set(page) == {"object", "data", "has_more", "first_id", "last_id"}
        empty = client.get("/fine_tuning/jobs", params={"metadata[no]": "such"})
        assert empty.json() == {"object": "list", "data": [], "has_more": False, "first_id": None, "last_id": None}


def test_a_job_keeps_the_method_of_its_adapter(department: Department, base_model: str, file: str) -> None:
    asked = {
        "use_dora": True, "init": "pissa", "bias": "all", "rank": 4,
        "rank_pattern": {r"layers\.0\.self_attn\.q_proj": 2, "down_proj": 1}, "alpha_pattern": {"down_proj": 0.5},
    }  # fmt: skip
    client = department.client()
    made: Any = client.fine_tuning.jobs.create(model=base_model, training_file=file, extra_body={"lora": asked})
    shown: Any = client.fine_tuning.jobs.retrieve(made.id)
    assert {name: shown.lora[name] for name in asked} == asked
    assert shown.spec["method"]["rank_pattern"] == asked["rank_pattern"]


@pytest.mark.parametrize(
    ("lora", "refusal"),
    [
        ({"rank_pattern": {"q_porj": 2}}, ("unknown_target_module", "lora.rank_pattern.q_porj")),
        ({"alpha_pattern": {"(a+)+": 2}}, ("invalid_request", "lora.alpha_pattern.(a+)+")),
        ({"rank_pattern": {"q_proj": 257}}, ("out_of_range", "lora.rank_pattern.q_proj")),
        ({"init": "pissa", "dropout": 0.5}, ("conflicting_fields", "lora.dropout")),
    ],
)
def test_a_method_that_cannot_be_is_refused_by_field(
    department: Department, base_model: str, lora: dict[str, object], refusal: tuple[str, str]
) -> None:
    client, file = department.client(), department.upload(rows(8))
    with pytest.raises(openai.BadRequestError) as refused:
        client.fine_tuning.jobs.create(model=base_model, training_file=file, extra_body={"lora": lora})
    assert (refused.value.code, refused.value.param) == refusal


def test_the_client_reads_a_jobs_measurements(
    department: Department, base_model: str, file: str, finish: Callable[[Department, str], None]
) -> None:
    client = department.client()
    job = client.fine_tuning.jobs.create(model=base_model, training_file=file)
    finish(department, job.id)
    measured = [event for event in client.fine_tuning.jobs.list_events(job.id) if event.type == "metrics"]
    assert [event.data for event in measured] == [METRICS]
    ended: Any = client.fine_tuning.jobs.retrieve(job.id)
    assert (ended.progress["loss"], ended.progress["mfu"], ended.progress["tokens_per_s"]) == (1.5, 0.5, None)
