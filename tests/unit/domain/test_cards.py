from datetime import UTC, datetime
from uuid import UUID

import pytest

from domain.access import PrincipalType
from domain.adapters import VersionState
from domain.approvals import ApprovalState, Decision
from domain.cards import Card, CardApproval, CardDecision, CardFile, markdown, trainer_id
from domain.data_classes import DataClass
from domain.digests import Manifest, ManifestFile, digest_of
from domain.plans import Device, PathChoice, Precision, RunReport
from domain.runs import LoraMethod, Optimiser, RunData, RunSpec

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
ROWS, BASE = digest_of(b"rows"), digest_of(b"base")


def key(number: int) -> UUID:
    return UUID(int=number)


@pytest.fixture
def card() -> Card:
    spec = RunSpec(
        base_model="tiny", base_model_digest=BASE, method=LoraMethod(lora_rank=4),
        optimiser=Optimiser(learning_rate=1e-3),
        data=RunData(train=ROWS, train_rows=8, max_seq_len=64), seed=7, batch_size=2, n_epochs=1, total_steps=4,
        checkpoint_every_steps=2, validate_every_steps=0,
    )  # fmt: skip
    report = RunReport(
        run="a", steps=4, trained_tokens=100, supervised_tokens=40, train_s=1.0, tokens_per_s=100.0,
        final_train_loss=1.25, validation_loss=None, validation_token_accuracy=None, trainable_parameters=10,
        total_parameters=100, peak_memory_bytes=1, estimated_memory_bytes=1, precision=Precision.FP32,
        device=Device.CPU, path=PathChoice.FAST, token_budget=64, world_size=1, skipped_rows=0,
        versions={"torch": "2.9", "python": "3.11"},
    )  # fmt: skip
    return Card(
        adapter="triage", number=3, id=key(1), model="ft:tiny:acme:triage:1", digest=digest_of(b"adapter"),
        state=VersionState.REVOKED, state_reason="It leaked.", state_changed_at=NOON, created_at=NOON,
        data_class=DataClass.RESTRICTED, labels={"team": "billing"}, description="Sorts\ntickets.", aliases=(),
        base_model="tiny", base_model_digest=BASE, job=key(2), trainer_type=PrincipalType.SERVICE_ACCOUNT,
        trainer=key(3), person=key(4), worker="host:1", worker_id=None, code_version="0.1.0+sha256.ab", spec=spec,
        report=report,
        data=(
            CardFile(role="training", id=key(5), digest=ROWS, rows=8, data_class=DataClass.RESTRICTED, deleted=True),
        ),
        evaluations=(),
        approvals=(
            CardApproval(
                id=key(6), state=ApprovalState.APPROVED, required=2, requester=key(4),
                decisions=(CardDecision(approver=key(7), decision=Decision.APPROVE, decided_at=NOON),),
            ),
        ),
        manifest=Manifest.of([ManifestFile(path="adapter_config.json", bytes=3, digest=digest_of(b"{ }"))]),
    )  # fmt: skip


def rows_of(text: str) -> set[tuple[str, ...]]:
    lines = (line for line in text.splitlines() if line.startswith("|"))
    return {tuple(cell.strip() for cell in line.strip("|").replace("\\", "").split("|")) for line in lines}


def test_the_card_for_people_tells_every_fact(card: Card) -> None:
    told = rows_of(markdown(card))
    assert told >= {
        ("digest", digest_of(b"adapter")),
        ("state", "revoked: It leaked."),
        ("labels", "team=billing"),
        ("trainer", f"svcacct_{key(3).hex}"),
        ("person behind it", f"user-{key(4).hex}"),
        ("worker", "host:1"),
        ("code version", "0.1.0+sha256.ab"),
        ("base model", "tiny", BASE, "", ""),
        ("training rows, deleted since", f"file-{key(5).hex}", ROWS, "8", "restricted"),
        ("method.lora_rank", "4"),
        ("optimiser.learning_rate", "0.001"),
        ("seed", "7"),
        ("final_train_loss", "1.25", ""),
        (f"approval-{key(6).hex}", f"user-{key(7).hex}", "approve, 2026-11-25 12:00:00 UTC"),
        ("adapter_config.json", "3", digest_of(b"{ }")),
        ("torch", "2.9"),
    }
    assert "# triage, version 3\n" in markdown(card)
    assert "> Sorts\n> tickets." in markdown(card)


def test_what_people_wrote_is_no_markup(card: Card) -> None:
    hostile = card.model_copy(update={"description": "# | <b>\n\n| a |", "labels": {"x": "a | b\n# c"}})
    shown = markdown(hostile)
    assert "<b>" not in shown
    assert not [line for line in shown.splitlines() if line.startswith("| a |")]
    assert shown.count("\n# ") == 0
    assert len([line for line in shown.splitlines() if line.startswith("| labels")]) == 1


def test_a_service_account_is_no_person(card: Card) -> None:
    assert trainer_id(card).startswith("svcacct_")
    assert trainer_id(card.model_copy(update={"trainer_type": PrincipalType.USER})).startswith("user-")
