"""A small installation for workers: servers of this folder's own (its tests flush the broker), a tiny base model."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from io import BytesIO
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID, uuid4

import psutil
import pytest
from sqlalchemy import create_engine, make_url, select, text

from domain.access import Principal, PrincipalType, Role
from domain.base_models import facts_of_config, weights_of_header
from domain.digests import Manifest, digest_of, manifest_of_tree
from domain.job_requests import JobRequest
from domain.plans import Device, InspectedFile, InspectReport, Precision
from domain.rows import RowsReport
from models_db.adapters import AdapterVersion
from models_db.audit import AuditRecord
from models_db.jobs import Job, JobCheckpoint, JobEvent
from models_db.sessions import APP_ROLE
from runtime import migrations, wiring
from runtime.embedded import EmbeddedServices
from runtime.settings import Settings, as_environment
from runtime.wiring import Runtime
from services import base_models, blobs, departments, files, jobs, validation
from services.admissions import JobLimits
from storage.keys import Key
from storage.objects import ObjectStore
from tests.integration.workers.registry import Registry
from workers.engine_process import Launcher
from workers.training import Worker

HERE = Path(__file__).parent
BASE_MODEL = "tiny"
LIMITS = JobLimits(max_unfinished_jobs=100, max_total_steps=100_000)
POLL_S = 0.05


@pytest.fixture
def wait_for() -> Callable[..., None]:
    return _wait_for


def _wait_for(condition: Callable[[], object], *, within_s: float, what: str) -> None:
    """Poll until the condition holds; fail when it does not within the time."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        time.sleep(POLL_S)


@pytest.fixture
def fake() -> Callable[..., Launcher]:
    """An engine that only pretends: the same process contract, no torch. What it does is said by words."""
    return lambda *behaviour: Launcher(program=(str(HERE / "fake_engine.py"), *behaviour))


@dataclass
class Department:
    """A department with a base model to train on, and what its people see."""

    runtime: Runtime
    principal: Principal
    admin_url: str
    _names: Iterator[int] = field(default_factory=count)

    @property
    def id(self) -> UUID:
        assert self.principal.department
        return self.principal.department

    @staticmethod
    def rows(number: int, *, salt: int = 0) -> list[dict[str, object]]:
        return [
            {"messages": [{"role": "user", "content": f"Is {place} even? ({salt})"},
                          {"role": "assistant", "content": "no" if place % 2 else "yes"}],
             "choices": ["yes", "no"]}
            for place in range(number)
        ]  # fmt: skip

    def upload(self, rows: list[dict[str, object]]) -> str:
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
        digest = digest_of(content)
        with self.runtime.department(self.id) as session:
            stored_since = blobs.clock(session)
        self.runtime.objects.put(Key.blob(self.id, digest), BytesIO(content), digest, len(content))
        with self.runtime.department(self.id) as session:
            report = RowsReport(rows=len(rows), duplicate_rows=0, rows_with_choices=0)
            file = files.register(
                session, self.principal, filename="rows.jsonl", purpose="fine-tune", digest=digest,
                size_bytes=len(content), rows=report, stored_since=stored_since,
            )  # fmt: skip
            return f"file-{file.id.hex}"

    def submit(self, *, steps: int = 4, checkpoint_every: int = 2, **more: object) -> UUID:
        request = JobRequest.model_validate(
            {"model": BASE_MODEL, "training_file": self.upload(self.rows(16, salt=next(self._names)))}
            | more
            | {"hyperparameters": {"batch_size": 2},
               "lora": {"max_steps": steps, "checkpoint_every_steps": checkpoint_every, "max_seq_len": 128}}
        )  # fmt: skip
        with self.runtime.department(self.id) as session:
            return jobs.submit(session, self.principal, request, limits=LIMITS, seed=7, is_retry=False).id

    def submit_queued(self, **options: object) -> UUID:
        """A job whose files somebody has validated."""
        job = self.submit(**options)
        with self.runtime.department(self.id) as session:
            validation.accept(session, job, InspectReport(files=(), problems=()))
        return job

    def submit_small(self, **options: object) -> UUID:
        """A queued job with rows of a hundred tokens, all counted."""
        job = self.submit(**options)
        counted = InspectedFile(
            file="train.jsonl", rows=16, tokens=100, supervised_tokens=10, longest_row_tokens=10, too_long_rows=0,
            untrainable_rows=0,
        )  # fmt: skip
        with self.runtime.department(self.id) as session:
            validation.accept(session, job, InspectReport(files=(counted,), problems=()))
        return job

    def job(self, job: UUID) -> Job:
        with self.runtime.department(self.id) as session:
            return session.get_one(Job, job)

    def cancel(self, job: UUID) -> None:
        with self.runtime.department(self.id) as session:
            jobs.request_cancel(session, self.principal, job)

    def pause(self, job: UUID) -> None:
        with self.runtime.department(self.id) as session:
            jobs.request_pause(session, self.principal, job)

    def resume(self, job: UUID) -> None:
        with self.runtime.department(self.id) as session:
            jobs.resume(session, self.principal, job)

    def checkpoints(self, job: UUID) -> list[JobCheckpoint]:
        with self.runtime.department(self.id) as session:
            statement = select(JobCheckpoint).where(JobCheckpoint.job_id == job).order_by(JobCheckpoint.id)
            return list(session.scalars(statement))

    def versions(self, job: UUID) -> list[AdapterVersion]:
        with self.runtime.department(self.id) as session:
            return list(session.scalars(select(AdapterVersion).where(AdapterVersion.job_id == job)))

    def events(self, job: UUID) -> list[JobEvent]:
        with self.runtime.department(self.id) as session:
            return list(session.scalars(select(JobEvent).where(JobEvent.job_id == job).order_by(JobEvent.number)))

    def audited(self, action: str) -> list[AuditRecord]:
        with self.runtime.department(self.id) as session:
            return list(session.scalars(select(AuditRecord).where(AuditRecord.action == action)))

    def erase_checkpoint_file(self, checkpoint: JobCheckpoint, name: str) -> None:
        self.runtime.objects.erase(
            Key.checkpoint(self.id, checkpoint.job_id, epoch=checkpoint.epoch, step=checkpoint.step, name=name)
        )

    def adapter_file(self, job: UUID, name: str) -> bytes:
        (version,) = self.versions(job)
        (file,) = (file for file in version.manifest["files"] if file["path"] == name)
        return b"".join(self.runtime.objects.stream(Key.blob(self.id, file["digest"]), file["digest"]))

    def waits_unrung(self, waiting: list[UUID], seconds: float) -> bool:
        """Whether nobody has rung for these jobs for so long."""
        before = text("SELECT clock_timestamp() - make_interval(secs => :seconds)")
        with self.runtime.department(self.id) as session:
            since = session.execute(before, {"seconds": seconds}).scalar_one()
            return all(session.get_one(Job, job).nudged_at < since for job in waiting)

    def base_model(self) -> Manifest:
        with self.runtime.platform() as session:
            return base_models.manifest_of(base_models.get_ready(session, BASE_MODEL))

    def flush_broker(self) -> None:
        with self.runtime.queue.connection_for_write() as connection:
            connection.default_channel.client.flushall()

    def queue_length(self, queue: str) -> int:
        with self.runtime.queue.connection_for_write() as connection:
            length: int = connection.default_channel.client.llen(queue)
            return length

    def erase_rows(self, job: UUID) -> None:
        self.runtime.objects.erase(Key.blob(self.id, self.job(job).spec["data"]["train"]))

    def worker(
        self, launcher: Launcher | None = None, *, objects: ObjectStore | None = None, **settings: float
    ) -> Worker:
        """A worker in this process."""
        runtime = replace(
            self.runtime,
            settings=self.runtime.settings.model_copy(update=settings),
            objects=objects or self.runtime.objects,
        )
        return Worker(runtime, "in-process", threading.Event(), launcher or Launcher())


@pytest.fixture(scope="session")
def servers() -> Iterator[EmbeddedServices]:
    with TemporaryDirectory(prefix="tsugiki-workers-") as folder:
        Path(folder).chmod(0o711)
        with EmbeddedServices(Path(folder) / "services", durable=False) as services:
            yield services


@pytest.fixture(scope="session")
def app_url(servers: EmbeddedServices) -> str:
    """The template database, migrated; each test copies it."""
    admin = make_url(servers.database_admin_url).set(drivername="postgresql+psycopg")
    app = admin.set(username=APP_ROLE, password="workers")
    migrations.upgrade(*(url.render_as_string(hide_password=False) for url in (admin, app)))
    return app.render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers with a tokenizer of its own, made by another process: it needs torch."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    subprocess.run([sys.executable, str(HERE / "tiny_model.py"), str(folder)], check=True)
    return folder


@pytest.fixture
def settings(
    *, request: pytest.FixtureRequest, servers: EmbeddedServices, app_url: str, tmp_path: Path, signing_key_file: Path
) -> Iterator[Settings]:
    """Those of one test, on a database of its own; a test gives others as the fixture's parameter."""
    name = f"workers_{uuid4().hex}"
    admin = create_engine(
        make_url(servers.database_admin_url).set(drivername="postgresql+psycopg", database="template1"),
        isolation_level="AUTOCOMMIT",
    )
    source = make_url(app_url)
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {source.database}"))
    made = Settings(
        database_url=source.set(database=name).render_as_string(hide_password=False),
        broker_url=servers.broker_url,
        s3_endpoint=servers.s3.endpoint_url,
        s3_bucket=servers.s3.bucket,
        s3_access_key=servers.s3.access_key,
        s3_secret_key=servers.s3.secret_key,
        signing_key_file=signing_key_file,
        cache_dir=tmp_path / "cache",
        work_dir=tmp_path / "work",
        lease_s=3,
        sweep_every_s=1,
        nudge_after_s=1,
        stop_grace_s=15,
        ranks=1,
        # Several at once are the tests' of that.
        batch_jobs=1,
        device=Device.CPU,
        precision=Precision.FP32,
        # A process between jobs would be one more to every test.
        prewarm=False,
    )
    yield made.model_copy(update=getattr(request, "param", {}))
    admin.dispose()


@pytest.fixture
def runtime(settings: Settings) -> Iterator[Runtime]:
    built = wiring.build(settings)
    built.objects.ensure_bucket()
    with built.queue.connection_for_write() as connection:
        connection.default_channel.client.flushall()
    yield built
    built.close()


@pytest.fixture
def department(runtime: Runtime, tiny_model: Path, servers: EmbeddedServices) -> Department:
    with runtime.platform() as session:
        created = departments.create(session, _everyone(None), "tests").id
    register(runtime, tiny_model)
    database = make_url(runtime.settings.database_url.get_secret_value()).database
    admin = make_url(servers.database_admin_url).set(drivername="postgresql+psycopg", database=database)
    return Department(runtime, _everyone(created), admin.render_as_string(hide_password=False))


@pytest.fixture
def registry(runtime: Runtime) -> Registry:
    return Registry(runtime)


def _everyone(department: UUID | None) -> Principal:
    return Principal(PrincipalType.USER, id=uuid4(), key_id=None, department=department, roles=frozenset(Role))


def register(runtime: Runtime, folder: Path) -> None:
    """Upload a base model's folder, as the API does."""
    manifest, operator = manifest_of_tree(folder), _everyone(None)
    with runtime.platform() as session:
        base_models.propose(session, operator, name=BASE_MODEL, source="tests", manifest=manifest)
    for file in manifest.files:
        path = folder / file.path
        runtime.objects.put(Key.base_model(file.digest), path, file.digest, file.bytes)
        config = facts_of_config(path.read_bytes()) if file.path == "config.json" else None
        with path.open("rb") as stream:
            weights = weights_of_header(stream) if file.path.endswith(".safetensors") else None
        with runtime.platform() as session:
            base_models.record_file(session, operator, BASE_MODEL, file.path, config=config, weights=weights)


@pytest.fixture
def start(settings: Settings, tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[bytes]"]]:
    """Start a program of ours as a process that finds the settings in its environment; gone after the test."""
    started: list[subprocess.Popen[bytes]] = []

    def launch(*argv: str) -> "subprocess.Popen[bytes]":
        """A module, one of the programs beside this file, or words to `worker_process.py`."""
        if argv[:1] == ("celery",):
            argv = (str(HERE / "celery_process.py"), *argv[1:])
        elif argv[:1] != ("-m",):
            argv = (str(HERE / "worker_process.py"), *argv)
        with (tmp_path / "workers.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *argv], env=os.environ | as_environment(settings), stdout=log, stderr=log
            )
        started.append(process)
        return process

    yield launch
    for process in started:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()
    if os.environ.get("SHOW_WORKERS"):
        sys.stderr.write((tmp_path / "workers.log").read_text() if started else "")


@pytest.fixture
def engines(settings: Settings) -> Callable[[], list[psutil.Process]]:
    """The living engine processes of this test: launchers and ranks, also those that lost their worker."""
    return lambda: [process for process in psutil.process_iter() if _is_engine(process, settings.work_dir)]


def _is_engine(process: psutil.Process, work_dir: Path) -> bool:
    try:
        plans = [word for word in process.cmdline() if word.startswith(f"--plan={work_dir}/")]
        return bool(plans) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
