"""The graph both ways, the versions that saw a file, and what servers and people have of them."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import pytest
from sqlalchemy import create_engine, text

from domain.ids import IdKind, parse_id
from runtime.wiring import Runtime
from tests.integration.conftest import Database, Department, Person, rows

BASE = "tiny"


@dataclass(frozen=True)
class Family:
    """A version trained on `file`, one that goes on from it on other rows, one that goes on from that; and a stranger.

    The stranger was only measured on the file.
    """

    department: Department
    file: str
    other_file: str
    jobs: dict[str, str]
    versions: dict[str, dict[str, Any]]
    server: Person

    def names(self, found: list[dict[str, Any]]) -> set[str]:
        """By which names the family knows these versions."""
        known = {version["id"]: name for name, version in self.versions.items()}
        return {known[each["id"]] for each in found}


def job_of(department: Department, model: str, file: str, **more: Any) -> str:
    client = department.client()
    return client.fine_tuning.jobs.create(model=model, training_file=file, extra_body=more).id


@pytest.fixture(scope="module")
def family(
    make_department: Callable[[], Department], base_model: str, finish: Callable[[Department, str], None]
) -> Family:
    return make_family(make_department(), base_model, finish)


def make_family(
    department: Department, base_model: str, finish: Callable[[Department, str], None], *, alone: bool = False
) -> Family:
    """alone: the parent and nobody else."""
    file, other_file = department.upload(rows(8)), department.upload(rows(8, salt=1))
    jobs: dict[str, str] = {}
    versions: dict[str, dict[str, Any]] = {}

    def made(name: str, model: str, trained_on: str, **more: Any) -> None:
        jobs[name] = job_of(department, model, trained_on, **more)
        finish(department, jobs[name])
        with department.http() as client:
            adapter = client.get(f"/fine_tuning/jobs/{jobs[name]}").json()["adapter"]
            path = f"/adapters/{adapter['name']}/versions/{adapter['version']}"
            versions[name] = client.get(path).raise_for_status().json()

    made("parent", base_model, file, suffix="family")
    if not alone:
        made("child", versions["parent"]["model"], other_file)
        made("grandchild", versions["child"]["model"], other_file, suffix="elsewhere")
        made("stranger", base_model, other_file, suffix="stranger", evaluation_file=file)
        made("of the stranger", versions["stranger"]["model"], other_file, suffix="strangers")
    return Family(department, file, other_file, jobs, versions, department.member("inference"))


def edges_of(answer: httpx.Response) -> set[tuple[str, str, str]]:
    found = answer.raise_for_status().json()["edges"]
    return {(edge["subject"], edge["relation"], edge["object"]) for edge in found}


# --- continuing -------------------------------------------------------------------------------------------------------


def test_a_job_goes_on_from_a_version_by_the_clients_name_and_joins_its_adapter(family: Family) -> None:
    parent, child, grandchild = (family.versions[name] for name in ("parent", "child", "grandchild"))
    assert (child["adapter"], child["number"], grandchild["adapter"]) == ("family", 2, "elsewhere")
    with family.department.http() as client:
        job = client.get(f"/fine_tuning/jobs/{family.jobs['child']}").json()
    assert (job["parent"], job["model"]) == (parent["id"], BASE)
    assert job["spec"]["parent"] == parent["digest"]
    assert job["lora"]["rank"] == 8


@pytest.mark.parametrize(
    ("lora", "code", "param"),
    [
        ({"rank": 4}, "parent_differs", "lora.rank"),
        ({"alpha": 4}, "parent_differs", "lora.alpha"),
        ({"target_modules": ["q_proj"]}, "parent_differs", "lora.target_modules"),
        ({"use_rslora": True}, "parent_differs", "lora.use_rslora"),
        ({"rank_pattern": {"q_proj": 4}}, "parent_differs", "lora.rank_pattern"),
        ({"init": "gaussian"}, "conflicting_fields", "lora.init"),
    ],
)
def test_a_setting_that_would_not_fit_the_versions_weights_is_refused(
    family: Family, lora: dict[str, Any], code: str, param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        job_of(family.department, family.versions["parent"]["model"], family.file, lora=lora)
    assert (refused.value.code, refused.value.param) == (code, param)


def test_what_does_not_change_the_weights_shapes_may_be_said_anew(family: Family) -> None:
    lora = {"rank": 8, "dropout": 0.25, "learning_rate": 1e-4}
    job = job_of(family.department, family.versions["parent"]["model"], family.file, lora=lora)
    with family.department.http() as client:
        settings = client.get(f"/fine_tuning/jobs/{job}").json()["lora"]
    assert (settings["rank"], settings["dropout"], settings["learning_rate"]) == (8, 0.25, 1e-4)


def test_another_departments_version_is_as_unknown_as_nobodys(
    family: Family, make_department: Callable[[], Department]
) -> None:
    stranger = make_department()
    file = stranger.upload(rows(4))
    answers = []
    for model in (family.versions["parent"]["model"], family.versions["parent"]["model"][:-32] + "0" * 32):
        with stranger.http() as client:
            answers.append(client.post("/fine_tuning/jobs", json={"model": model, "training_file": file}))
    assert answers[0].content == answers[1].content
    assert (answers[0].status_code, answers[0].json()["error"]["code"]) == (400, "unknown_base_model")


# --- the graph --------------------------------------------------------------------------------------------------------


def test_up_from_a_version_leads_to_all_that_it_came_from(family: Family) -> None:
    ids = {name: version["id"] for name, version in family.versions.items()}
    with family.department.http() as client:
        found = edges_of(client.get(f"/lineage/{ids['grandchild']}", params={"direction": "up", "depth": 20}))
    assert found >= {
        (ids["grandchild"], "continued_from", ids["child"]),
        (ids["child"], "continued_from", ids["parent"]),
        (ids["parent"], "trained_on", family.file),
        (family.jobs["grandchild"], "continues", ids["child"]),
        (family.jobs["parent"], "trains_on", family.file),
    }
    subjects = {subject for subject, _relation, _target in found}
    assert not subjects & {ids["stranger"], family.jobs["stranger"]}


def test_down_from_a_file_leads_to_everything_that_has_to_do_with_it(family: Family) -> None:
    ids = {name: version["id"] for name, version in family.versions.items()}
    with family.department.http(family.server) as server:
        report = {"adapter": "family", "version": 1, "server": "gpu-1", "state": "loaded"}
        server.post("/deployments", json=report).raise_for_status()
    with family.department.http() as client:
        client.get("/adapters/family/versions/1/content").raise_for_status()
        answer = client.get(f"/lineage/{family.file}", params={"direction": "down", "depth": 20})
    shown = {(edge["relation"], edge["subject_type"], edge["object_name"]) for edge in answer.json()["edges"]}
    assert shown >= {
        ("trained_on", "adapter_version", "rows.jsonl"),
        ("trains_on", "job", "rows.jsonl"),
        ("measured_on", "evaluation", "rows.jsonl"),
        ("measures", "evaluation", "stranger@1"),
        ("took", "download", "family@1"),
        ("loaded", "deployment", "family@1"),
        ("stands_for", "alias", "family@2"),
        ("continued_from", "adapter_version", "family@2"),
    }
    nodes = {node["id"]: node for node in answer.json()["nodes"]}
    assert set(ids.values()) <= set(nodes)
    assert nodes[family.file]["depth"] == 0
    assert nodes["family@latest"]["type"] == "alias"
    # Down is down: what the others came from besides is not among it.
    assert family.other_file not in nodes
    assert not answer.json()["is_cut"]


def test_depth_says_how_far_to_follow(family: Family) -> None:
    version = family.versions["parent"]["id"]
    sizes = []
    with family.department.http() as client:
        for depth in (1, 2, 3):
            found = client.get(f"/lineage/{version}", params={"direction": "down", "depth": depth}).json()["edges"]
            assert max(edge["depth"] for edge in found) <= depth
            sizes.append(len(found))
        for bad in (0, 21):
            assert client.get(f"/lineage/{version}", params={"depth": bad}).json()["error"]["code"] == "out_of_range"
    assert sizes == sorted(set(sizes))


def test_who_may_not_read_files_reads_no_files_name(family: Family, auditor_key: str) -> None:
    headers = {"Authorization": f"Bearer {auditor_key}", "OpenAI-Project": family.department.id}
    with httpx.Client(base_url=family.department.api_url, headers=headers) as auditor:
        nodes = auditor.get(f"/lineage/{family.versions['parent']['id']}").raise_for_status().json()["nodes"]
    (file,) = (node for node in nodes if node["id"] == family.file)
    assert file["name"] is None


def test_a_graph_of_many_edges_is_cut_at_the_nearest_in_good_time(
    make_department: Callable[[], Department], database: Database, base_model: str, finish: Callable[..., None]
) -> None:
    """A chain of 1,500 versions, each trained on one file and continued from the one before: 3,000 edges."""
    department = make_department()
    file = department.upload(rows(4))
    job = job_of(department, base_model, file, suffix="chain")
    finish(department, job)
    with department.http() as client:
        first = client.get("/adapters/chain/versions/1").json()
        _grow(database, parse_id(IdKind.ADAPTER_VERSION, first["id"]), parse_id(IdKind.FILE, file), 1500)
        began = time.monotonic()
        found = client.get(f"/lineage/{file}", params={"direction": "down", "depth": 20}).raise_for_status().json()
        took_s = time.monotonic() - began
        assert found["is_cut"]
        assert len(found["edges"]) == 1000
        assert {edge["depth"] for edge in found["edges"]} == {1}
        # Generous: a recursion that does not end takes the minute that statements may take.
        assert took_s < 10
        descendants = client.get(f"/files/{file}/descendants").raise_for_status().json()["data"]
    assert len(descendants) == 1501


def _grow(database: Database, version: Any, file: Any, count: int) -> None:
    """Copies of a version, straight into the tables: their jobs are not of interest."""
    engine = create_engine(database.admin_url)
    with engine.begin() as connection:
        connection.execute(text("SET session_replication_role = replica"))
        connection.execute(
            text("""
                CREATE TEMP TABLE grown AS SELECT g AS place, uuidv7() AS id FROM generate_series(1, :count) g;
            """),
            {"count": count},
        )
        columns = connection.execute(
            text("SELECT attname FROM pg_attribute WHERE attrelid = 'adapter_versions'::regclass AND attnum > 0")
        ).scalars()
        changed = {"id": "g.id", "number": "g.place + 1", "job_id": "uuidv7()", "model_name": "v.model_name || g.place"}
        names = list(columns)
        values = ", ".join(changed.get(name, f"v.{name}") for name in names)
        connection.execute(
            text(
                f"INSERT INTO adapter_versions ({', '.join(names)})"  # noqa: S608
                f" SELECT {values} FROM adapter_versions v, grown g WHERE v.id = :version"
            ),
            {"version": version},
        )
        for relation, target in (
            ("trained_on", "CAST(:file AS uuid)"),
            ("continued_from", "coalesce((SELECT p.id FROM grown p WHERE p.place = g.place - 1), :version)"),
        ):
            object_type = "file" if relation == "trained_on" else "adapter_version"
            connection.execute(
                text(
                    "INSERT INTO lineage_edges (department_id, subject_type, subject_id, relation, object_type,"  # noqa: S608
                    f" object_id) SELECT v.department_id, 'adapter_version', g.id, '{relation}', '{object_type}',"
                    f" {target} FROM grown g, adapter_versions v WHERE v.id = :version"
                ),
                {"version": version, "file": file},
            )
        connection.execute(text("DROP TABLE grown"))
    engine.dispose()


# --- which versions saw a file ----------------------------------------------------------------------------------------


def test_a_version_that_goes_on_from_one_that_saw_a_file_saw_it(family: Family) -> None:
    with family.department.http() as client:
        found = client.get(f"/files/{family.file}/descendants").raise_for_status().json()["data"]
    relations = {name: each["relation"] for each in found for name in family.names([each])}
    assert relations == {
        "parent": "trained_on", "child": "continued_from", "grandchild": "continued_from", "stranger": "evaluated_on",
    }  # fmt: skip
    through = {name: each["through"] for each in found for name in family.names([each])}
    assert through["grandchild"] == family.versions["child"]["id"]
    assert through["parent"] is None
    # It was only measured on the file, and what goes on from it has nothing to do with it.
    assert "of the stranger" not in relations


def test_live_versions_are_told_with_where_they_are(family: Family, runtime: Runtime) -> None:
    _ = runtime
    with family.department.http() as client:
        client.get("/adapters/family/versions/2/content").raise_for_status()
        live = client.get(f"/files/{family.file}/descendants", params={"live": True}).json()["data"]
        dead = client.get(f"/files/{family.file}/descendants", params={"live": False}).json()["data"]
        me = client.get("/me").json()["id"]
    (child,) = (each for each in live if each["id"] == family.versions["child"]["id"])
    assert (child["aliases"], child["holders"]) == (["latest"], [me])
    assert all(each["live"] for each in live)
    assert dead == []


# --- deployments ------------------------------------------------------------------------------------------------------


def test_a_server_says_what_it_has_and_only_a_change_is_an_event(family: Family) -> None:
    report = {"adapter": "family", "version": "latest", "server": "vllm-2:8000", "state": "loaded"}
    with family.department.http(family.server) as server, family.department.http(family.department.admin) as admin:
        said = [server.post("/deployments", json=report).raise_for_status().json() for _ in range(3)]
        assert {each["id"] for each in said} == {said[0]["id"]}
        assert (said[0]["version"], said[0]["state"], said[0]["must_unload"]) == (2, "loaded", False)
        server.post("/deployments", json=report | {"state": "unloaded"}).raise_for_status()
        listed = admin.get("/deployments", params={"adapter": "family", "state": "unloaded"}).json()["data"]
        assert [each["id"] for each in listed] == [said[0]["id"]]
        told = admin.get("/organization/audit_logs", params={"event_types[]": "deployment.reported", "limit": 100})
        versions = {event["id"] for event in told.json()["data"]}
    assert len(versions) >= 2


def test_a_server_that_has_a_deleted_version_is_told_to_let_go_of_it(
    family: Family, finish: Callable[[Department, str], None]
) -> None:
    finish(family.department, job_of(family.department, BASE, family.other_file, suffix="gone"))
    report = {"adapter": "gone", "version": 1, "server": "gpu-3", "state": "loaded"}
    with family.department.http(family.server) as server, family.department.http() as trainer:
        assert not server.post("/deployments", json=report).raise_for_status().json()["must_unload"]
        trainer.delete("/adapters/gone/versions/1").raise_for_status()
        assert server.post("/deployments", json=report).raise_for_status().json()["must_unload"]
        said = server.post("/deployments", json=report | {"state": "unloaded"}).raise_for_status().json()
        assert (said["state"], said["must_unload"]) == ("unloaded", False)
        # For everything else it is gone.
        assert trainer.get("/adapters/gone/versions/1").status_code == 404


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"version": 99}, 404, "not_found"),
        ({"adapter": "nobody"}, 404, "not_found"),
        ({"state": "melted"}, 400, "invalid_request"),
        ({"server": ""}, 400, "out_of_range"),
        ({"server": "a b"}, 400, "invalid_request"),
        ({"host": "a"}, 400, "unknown_field"),
    ],
)
def test_a_bad_report_is_refused(family: Family, change: dict[str, Any], status: int, code: str) -> None:
    report = {"adapter": "family", "version": 1, "server": "s", "state": "loaded"} | change
    with family.department.http(family.server) as server:
        refused = server.post("/deployments", json=report)
    assert (refused.status_code, refused.json()["error"]["code"]) == (status, code)


def test_a_trainer_reports_no_deployment(family: Family) -> None:
    report = {"adapter": "family", "version": 1, "server": "s", "state": "loaded"}
    with family.department.http() as trainer:
        assert trainer.post("/deployments", json=report).status_code == 403
