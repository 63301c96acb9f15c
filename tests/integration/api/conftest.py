import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from uuid import UUID

import boto3
import pytest
from sqlalchemy import create_engine, text

from domain.ids import IdKind, parse_id
from domain.plans import Compute, Device, EvaluationReport, InspectReport, PathChoice, Precision, RunReport
from models_db.tables import Table
from runtime import wiring
from runtime.attesting import attest
from runtime.settings import Settings
from runtime.wiring import Runtime
from services import adapters, blobs, claims, leases, validation
from services.adapters import EvaluationPair
from tests.integration.api.governed import Governed
from tests.integration.conftest import Database, Department, rows, serving
from workers.provenance import of_training

ADAPTER_FILES = {
    "adapter_config.json": b'{"r": 8}',
    "adapter_model.safetensors": bytes(range(256)) * 5000,
}
# Until the server has written down what it does after an answer.
TOLD_WITHIN_S = 5

NOTHING_COUNTED = InspectReport(files=(), problems=())
METRICS = {"step": 1, "total_steps": 2, "train_loss": 1.5, "tokens_per_s": 321.0, "mfu": 0.5, "memory_bytes": 2**33}


@pytest.fixture(scope="module")
def finish(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., None]:
    """Play the worker: take a submitted job, leave a checkpoint and measurements, and register a version."""

    def finished(department: Department, job_id: str, counted: InspectReport = NOTHING_COUNTED) -> None:
        key, job = parse_id(IdKind.DEPARTMENT, department.id), parse_id(IdKind.JOB, job_id)
        with runtime.department(key) as session:
            stored_since = blobs.clock(session)
        folder = tmp_path_factory.mktemp("finished") / "adapter"
        folder.mkdir()
        for path, content in ADAPTER_FILES.items():
            (folder / path).write_bytes(content)
        manifest = runtime.objects.put_tree(key, folder)
        with runtime.department(key) as session:
            validation.accept(session, job, counted)
        with runtime.department(key) as session:
            claim = claims.claim(session, job, worker="a test", lease_s=60)
            assert claim
            progress = {"step": 1, "total_steps": 2, "eta_s": 60.0, "loss": 1.5, "mfu": 0.5}
            leases.record_progress(session, claim, progress, [METRICS])
            leases.record_checkpoint(session, claim, step=1, manifest=manifest, metrics={"step": 1, "train_loss": 1.5})
        report = _report(job)
        provenance = of_training(claim, report, Compute(), organisation="acme", finished_at=stored_since)
        attested = attest(runtime, key, folder, provenance)
        with runtime.department(key) as session:
            adapters.register(
                session, claim, organisation="acme", manifest=manifest, attested=attested, report=report,
                evaluation=_evaluation(), stored_since=stored_since,
            )  # fmt: skip

    return finished


def _report(job: UUID) -> RunReport:
    return RunReport(
        run=job.hex, steps=2, trained_tokens=100, supervised_tokens=40, train_s=1.0, tokens_per_s=100.0,
        final_train_loss=1.0, validation_loss=0.9, validation_token_accuracy=0.5, trainable_parameters=10,
        total_parameters=100, peak_memory_bytes=1, estimated_memory_bytes=1, precision=Precision.FP32,
        device=Device.CPU, path=PathChoice.FAST, token_budget=1024, world_size=2, skipped_rows=0,
        versions={"python": "3"},
    )  # fmt: skip


def _evaluation() -> EvaluationPair:
    base = EvaluationReport(
        evaluation="base", rows=4, supervised_tokens=4, loss=2.0, token_accuracy=0.25, choice_rows=0, accuracy=None,
        seconds=1.0,
    )  # fmt: skip
    return EvaluationPair(base=base, adapter=base.model_copy(update={"loss": 1.0}))


@dataclass(frozen=True)
class Finished:
    """A department in which a job has run to its end."""

    department: Department
    file: str
    job: str
    adapter: str
    version: str
    model: str


@pytest.fixture(scope="module")
def make_finished(
    make_department: Callable[[], Department], base_model: str, finish: Callable[[Department, str], None]
) -> Callable[[str], Finished]:
    """Make a department, and a finished job of it whose adapter has that name."""

    def made(adapter: str) -> Finished:
        department = make_department()
        file = department.upload(rows(8))
        job = department.client().fine_tuning.jobs.create(
            model=base_model, training_file=file, suffix=adapter, extra_body={"evaluation_file": file}
        )
        finish(department, job.id)
        with department.http() as http:
            version = http.get(f"/adapters/{adapter}/versions/1").raise_for_status().json()
        return Finished(department, file, job.id, adapter, version["id"], version["model"])

    return made


@pytest.fixture(scope="module")
def governed(department: Department, base_model: str, finish: Callable[..., None]) -> Iterator[Governed]:
    """A department with people of every role, who come when they are named."""
    made = Governed(department, base_model, finish)
    yield made
    made.close()


@pytest.fixture
def api_with(settings: Settings) -> Iterator[Callable[..., str]]:
    """Serve the same installation once more, with some settings changed."""
    with ExitStack() as stack:

        def served(**changed: object) -> str:
            values = {name: getattr(settings, name) for name in Settings.model_fields} | changed
            runtime = wiring.build(Settings.model_validate(values))
            stack.callback(runtime.close)
            return stack.enter_context(serving(runtime))

        yield served


@dataclass(frozen=True)
class Contents:
    """How many rows each table has, and which objects there are. Audit events are counted by type."""

    rows: dict[str, int]
    objects: frozenset[str]
    events: Counter[str]


@pytest.fixture(scope="module")
def contents(runtime: Runtime, database: Database) -> Iterator[Callable[[], Contents]]:
    """Take stock of database and bucket."""
    settings = runtime.settings
    client = boto3.session.Session().client(
        "s3", endpoint_url=settings.s3_endpoint, region_name=settings.s3_region,
        aws_access_key_id=settings.s3_access_key.get_secret_value(),
        aws_secret_access_key=settings.s3_secret_key.get_secret_value(),
    )  # fmt: skip
    engine = create_engine(database.admin_url)
    # A download leaves a note of who has it, beside its event.
    noted = {"audit_events", "downloads"}
    names = [table.name for table in Table.metadata.sorted_tables if table.name not in noted]
    counting = text(" UNION ALL ".join(f"SELECT '{name}', count(*) FROM {name}" for name in names))  # noqa: S608

    def taken() -> Contents:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=settings.s3_bucket)
        objects = frozenset(item["Key"] for page in pages for item in page.get("Contents", []))
        with engine.connect() as connection:
            counts = {str(row[0]): int(row[1]) for row in connection.execute(counting)}
            events = Counter(connection.execute(text("SELECT action FROM audit_events")).scalars())
        return Contents(counts, objects, events)

    yield taken
    engine.dispose()
    client.close()


@pytest.fixture
def unchanged(contents: Callable[[], Contents]) -> Callable[..., object]:
    """A block after which rows and objects must be as before, and the audit trail longer by exactly these events."""

    @contextmanager
    def block(**events: int) -> Iterator[None]:
        before = contents()
        yield
        # The end of a download is told after its last byte, which the client may see first.
        deadline = time.monotonic() + TOLD_WITHIN_S
        after = contents()
        while (after.events - before.events).total() < sum(events.values()) and time.monotonic() < deadline:
            after = contents()
        assert after.rows == before.rows
        assert after.objects == before.objects
        told = {name.replace(".", "_"): number for name, number in (after.events - before.events).items()}
        assert told == events

    return block
