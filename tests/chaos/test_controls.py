"""What each protection keeps from happening: with it the checker finds nothing, without it the checker finds just that.

One installation for all: its processes are started anew for each test, and only new findings count.
"""

import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import boto3
import psutil
import pytest
from sqlalchemy import create_engine, text

from chaos import checker as promises
from chaos.checker import Finding, orphans
from chaos.installation import TRAIN, Installation, Shape
from chaos.pieces import Piece
from chaos.proxy import Fault
from chaos.workload import Workload
from tests.chaos.conftest import await_

LEASE_S = 2
# Behind the fence stand the database's own rules. They are dropped here, or nobody could see that the fence is gone.
SECOND_LINE = ("uq_adapter_versions_job_id", "uq_adapter_versions_department_id_model_name")
PROTECTED = pytest.mark.parametrize("protected", [True, False])


@dataclass
class Service:
    installation: Installation
    workload: Workload
    known: set[Finding] = field(default_factory=set)

    def restart(self, *without: str, **armed: str) -> None:
        """Every process anew, without these protections; `armed` names failpoints of pieces, with `_` for `-`."""
        by_piece = {name.replace("_", "-"): setting for name, setting in armed.items()}
        for piece in self.installation.pieces:
            words = [word for word in piece.argv if not word.startswith("without:")]
            piece.end()
            piece.argv = [*words, *(f"without:{name}" for name in without if words[0] == "chaos.worker")]
            name = piece.name
            piece.start(**({"failpoints": by_piece[name]} if name in by_piece else {}))

    def only(self, *names: str) -> None:
        """End all train workers but these."""
        for piece in self.installation.of_role(TRAIN):
            if piece.name not in names:
                piece.end()

    def piece(self, name: str) -> Piece:
        return next(piece for piece in self.installation.pieces if piece.name == name)

    def start(self, name: str) -> None:
        self.piece(name).start()

    def send(self, name: str, number: signal.Signals) -> None:
        assert self.piece(name).send(number)

    def reached(self, name: str, point: str) -> int:
        """How often a piece has come to a failpoint, in all its lives."""
        return self.told(name, f"failpoint {point}: ")

    def told(self, name: str, words: str) -> int:
        """How often these words are in its log."""
        log = self.installation.folder / "logs" / f"{name}.log"
        return log.read_text().count(words) if log.exists() else 0

    def asked(self, statement: str, **parameters: object) -> object:
        admin = self.installation.settings.database_admin_url
        assert admin
        engine = create_engine(admin.get_secret_value().replace("postgresql:", "postgresql+psycopg:", 1))
        with engine.begin() as connection:
            result = connection.execute(text(statement), parameters)
            found = result.scalar() if result.returns_rows else None
        engine.dispose()
        return found

    def state(self, job: str) -> object:
        return self.asked("SELECT state FROM jobs WHERE id = :job", job=job)

    def new_findings(self) -> set[str]:
        """Promises that were broken since the last look."""
        found = set(self.installation.checker.check(self.workload.expected))
        new, self.known = found - self.known, self.known | found
        return {finding.promise for finding in new}


@pytest.fixture(scope="module")
def service(install: Callable[..., tuple[Installation, Workload]]) -> Iterator[Service]:
    # Nobody hears of events: each restart would hold the deliveries in hand for a minute.
    installation, workload = install(Shape(workers=2, lease_s=LEASE_S, step_s=0.05), hears=False)
    made = Service(installation, workload)
    for constraint in SECOND_LINE:
        made.asked(f"ALTER TABLE adapter_versions DROP CONSTRAINT {constraint}")
    yield made
    for process in psutil.process_iter():
        # Those that were let live on.
        if any(f"process {process.pid}:" in told for told in orphans(installation.settings.work_dir)):
            process.kill()


@PROTECTED
def test_the_fence_keeps_a_woken_worker_from_a_second_version(service: Service, *, protected: bool) -> None:
    without = () if protected else ("fence",)
    service.restart(*without, train_1="adapter.uploaded=stop*1")
    service.only("train-1")
    before = service.reached("train-1", "adapter.uploaded")
    job = service.workload.submit()
    assert job
    await_(lambda: service.reached("train-1", "adapter.uploaded") > before, within_s=90, what="it stops itself")
    service.start("train-2")
    await_(lambda: service.state(job) == "succeeded", within_s=90, what="the other worker finishes the job")
    service.send("train-1", signal.SIGCONT)
    versions = "SELECT count(*) FROM adapter_versions WHERE job_id = :job"
    if not protected:
        await_(lambda: service.asked(versions, job=job) == 2, within_s=20, what="the woken worker registers")
        assert "a job makes one version at most" in service.new_findings()
        return
    again = service.workload.submit()
    service.only("train-1")
    await_(lambda: service.state(str(again)) == "succeeded", within_s=90, what="the woken worker works on")
    assert service.new_findings() == set()


@PROTECTED
def test_the_fence_keeps_a_node_that_was_off_the_network_from_a_second_version(
    service: Service, *, protected: bool
) -> None:
    apart = service.installation.set_apart(service.piece("train-1"))
    # While it sleeps after its first checkpoint it is cut off, from all servers at once and without a word.
    service.restart(*(() if protected else ("fence",)), train_1="checkpoint.committed=sleep:2*1")
    service.only("train-1")
    before = service.reached("train-1", "checkpoint.committed")
    job = service.workload.submit()
    await_(lambda: service.reached("train-1", "checkpoint.committed") > before, within_s=90, what="a checkpoint")
    for way in apart.all:
        way.break_(Fault(hold=True))
    service.start("train-2")
    await_(lambda: service.state(str(job)) == "succeeded", within_s=90, what="the other worker finishes the job")
    assert service.asked("SELECT epoch FROM jobs WHERE id = :job", job=job) == 2
    for way in apart.all:
        way.heal()
    if not protected:
        versions = "SELECT count(*) FROM adapter_versions WHERE job_id = :job"
        await_(lambda: service.asked(versions, job=job) == 2, within_s=30, what="the node registers")
        assert "a job makes one version at most" in service.new_findings()
        return
    again = service.workload.submit()
    service.only("train-1")
    await_(lambda: service.state(str(again)) == "succeeded", within_s=90, what="the node works again")
    assert service.new_findings() == set()


@PROTECTED
def test_one_transaction_keeps_a_version_from_being_half_entered(service: Service, *, protected: bool) -> None:
    without = () if protected else ("one-transaction",)
    service.restart(*without, train_1="finish.in_tx=kill*1")
    service.only("train-1")
    before = service.reached("train-1", "finish.in_tx")
    job = service.workload.submit()
    await_(lambda: service.reached("train-1", "finish.in_tx") > before, within_s=90, what="it dies in the transaction")
    if not protected:
        found = service.new_findings()
        assert {"a version has its audit event", "a job has succeeded if and only if it made a version"} <= found
        service.asked("DELETE FROM adapter_versions WHERE job_id = :job", job=job)
        service.asked(COUNTED_ANEW)
    service.restart()
    await_(lambda: service.state(str(job)) == "succeeded", within_s=90, what="another worker goes on")
    service.new_findings()
    assert not service.installation.checker.unfinished()


COUNTED_ANEW = """
    UPDATE adapters SET next_number = 1 + (SELECT count(*) FROM adapter_versions v WHERE v.adapter_id = adapters.id)
"""


@PROTECTED
def test_the_sweep_keeps_a_lost_workers_job_from_being_lost(service: Service, *, protected: bool) -> None:
    service.restart(*(() if protected else ("sweep",)), train_1="inputs.fetched=kill*1")
    service.only("train-1")
    before = service.reached("train-1", "inputs.fetched")
    job = service.workload.submit()
    await_(lambda: service.reached("train-1", "inputs.fetched") > before, within_s=90, what="the worker dies")
    service.start("train-1")
    service.start("train-2")
    if not protected:
        # A second job is done meanwhile, and a lease and several sweeps have gone by.
        second = service.workload.submit()
        await_(lambda: service.state(str(second)) == "succeeded", within_s=90, what="the workers work")
        await_(lambda: service.asked(OVERDUE, job=job), within_s=20, what="the lease is long over")
        assert "every job ends" in service.new_findings()
        service.restart()
    await_(lambda: service.state(str(job)) == "succeeded", within_s=90, what="another worker goes on")
    service.new_findings()


def test_a_worker_stopped_in_its_transaction_holds_others_up_for_15_s_at_most(service: Service) -> None:
    service.restart(train_1="finish.in_tx=stop*1")
    service.only("train-1")
    before = service.reached("train-1", "finish.in_tx")
    first = service.workload.submit("shared")
    await_(lambda: service.reached("train-1", "finish.in_tx") > before, within_s=90, what="it stops itself")
    stopped_at = time.monotonic()
    blocking = service.installation.checker.blocking
    await_(lambda: blocking(0.5), within_s=5, what="the checker sees what the stopped worker holds")
    # It is to write the same adapter's next version.
    second = service.workload.submit("shared")
    service.start("train-2")
    await_(lambda: not blocking(0.5), within_s=20, what="PostgreSQL ends the stopped worker's transaction")
    assert time.monotonic() - stopped_at < promises.MAX_LOCK_S + 2
    await_(lambda: service.state(str(second)) == "succeeded", within_s=20, what="the other worker goes on")
    service.send("train-1", signal.SIGCONT)
    await_(lambda: service.state(str(first)) == "succeeded", within_s=90, what="the first job is done as well")
    assert service.new_findings() == set()


OVERDUE = """
    SELECT l.expires_at < clock_timestamp() - interval '4 s'
    FROM leases l JOIN jobs j ON j.lease_id = l.id WHERE j.id = :job
"""


@PROTECTED
def test_the_second_ring_keeps_a_job_from_being_forgotten(service: Service, *, protected: bool) -> None:
    service.restart(*(() if protected else ("second-ring",)))
    heard = service.workload.submit()
    await_(lambda: service.state(str(heard)) == "succeeded", within_s=90, what="all processes work")
    service.installation.network.broker.break_(Fault(refuse=True))
    service.installation.network.broker.cut()
    job = service.workload.submit()
    service.installation.network.broker.heal()
    if not protected:
        await_(lambda: service.asked(UNRUNG, job=job), within_s=20, what="sweeps go by")
        assert service.state(str(job)) == "validating_files"
        assert service.new_findings() == {"every job ends"}
        service.restart()
    await_(lambda: service.state(str(job)) == "succeeded", within_s=90, what="it is rung for again")
    service.new_findings()


@PROTECTED
def test_no_limit_keeps_a_worker_listening_whose_acknowledgement_was_lost(service: Service, *, protected: bool) -> None:
    service.restart(*(() if protected else ("prefetch",)))
    heard = service.workload.submit()
    await_(lambda: service.state(str(heard)) == "succeeded", within_s=90, what="all processes work")
    # What takes a message off the list of those that were not acknowledged.
    service.installation.network.broker.break_(Fault(lose_reply_to=b"ZREM"))
    before = service.told("validate", UNACKNOWLEDGED)
    lost = service.workload.submit()
    await_(lambda: service.told("validate", UNACKNOWLEDGED) > before, within_s=60, what="an acknowledgement is lost")
    service.installation.network.broker.heal()
    job = service.workload.submit()
    if not protected:
        await_(lambda: service.asked(UNRUNG, job=job), within_s=20, what="it is rung for again and again")
        assert service.state(str(job)) == "validating_files"
        assert service.new_findings() == {"every job ends"}
        service.restart()
    await_(lambda: service.state(str(job)) == "succeeded", within_s=90, what="it is heard")
    await_(lambda: service.state(str(lost)) == "succeeded", within_s=90, what="so is the one before")
    service.new_findings()


UNACKNOWLEDGED = "Couldn't ack"
UNRUNG = "SELECT created_at < clock_timestamp() - interval '5 s' FROM jobs WHERE id = :job"


@PROTECTED
def test_digests_keep_a_changed_checkpoint_from_being_gone_on_from(service: Service, *, protected: bool) -> None:
    service.restart(*(() if protected else ("digests",)), train_1="checkpoint.committed=kill*1")
    service.only("train-1")
    before = service.reached("train-1", "checkpoint.committed")
    job = service.workload.submit()
    await_(
        lambda: service.reached("train-1", "checkpoint.committed") > before, within_s=90, what="a checkpoint is kept"
    )
    key = service.asked(
        "SELECT 'departments/' || department_id || '/checkpoints/' || job_id || '/' || epoch || '/' || step ||"
        " '/state.json' FROM job_checkpoints WHERE job_id = :job", job=job,
    )  # fmt: skip
    change(service.installation, str(key))
    service.start("train-2")
    await_(lambda: service.state(str(job)) == "succeeded", within_s=90, what="another worker goes on")
    told = service.new_findings()
    if protected:
        # What was changed is named as rejected, and is no promise any more.
        assert told == set()
    else:
        # The changed checkpoint itself may have been erased meanwhile, as one that nobody needs any more.
        assert promises.WHOLE in told


def change(installation: Installation, key: str) -> None:
    """Put other bytes of the same length under a key, behind everybody's back."""
    settings = installation.settings
    client = boto3.session.Session().client(
        "s3", endpoint_url=settings.s3_endpoint, region_name=settings.s3_region,
        aws_access_key_id=settings.s3_access_key.get_secret_value(),
        aws_secret_access_key=settings.s3_secret_key.get_secret_value(),
    )  # fmt: skip
    content: bytes = client.get_object(Bucket=settings.s3_bucket, Key=key)["Body"].read()
    client.put_object(Bucket=settings.s3_bucket, Key=key, Body=b'"' + content[1:-1][::-1] + b'"')
    client.close()


@PROTECTED
def test_the_death_signal_keeps_ranks_from_outliving_their_worker(service: Service, *, protected: bool) -> None:
    service.restart(*(() if protected else ("death-signal",)), train_1="claim.committed=sleep:0.1*1")
    service.only("train-1")
    job = service.workload.submit()
    work_dir = service.installation.settings.work_dir
    await_(lambda: service.state(str(job)) == "running" and orphans(work_dir), within_s=90, what="ranks run")
    ranks = [psutil.Process(int(told.partition(":")[0].removeprefix("process "))) for told in orphans(work_dir)]
    for rank in ranks:
        # Stopped, so that it cannot end before it is looked for.
        rank.suspend()
    service.send("train-1", signal.SIGKILL)
    if not protected:
        assert promises.ORPHANS in service.new_findings()
        for rank in ranks:
            rank.kill()
    await_(lambda: not any(rank.is_running() and rank.status() != "zombie" for rank in ranks), within_s=5, what="gone")
    service.start("train-2")
    await_(lambda: service.state(str(job)) == "succeeded", within_s=90, what="another worker goes on")
    service.new_findings()
