"""A version's model card: what it is, what it learned from, how, and who decided what. Made from the facts alone."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from uuid import UUID

from domain.access import PrincipalType
from domain.adapters import VersionState
from domain.approvals import ApprovalState, Decision
from domain.data_classes import DataClass
from domain.digests import Digest, Manifest
from domain.frozen import Frozen
from domain.ids import IdKind, public_id
from domain.plans import EvaluationReport, RunReport
from domain.runs import RunSpec


class CardFile(Frozen):
    """Rows that took part. role: `training`, `validation` or `evaluation`. deleted: only what stands here is left."""

    role: str
    id: UUID
    digest: Digest
    rows: int | None
    data_class: DataClass
    deleted: bool


class CardEvaluation(Frozen):
    """What the version came to on held-out rows, beside what the base model alone came to."""

    id: UUID
    file_id: UUID
    base: EvaluationReport
    adapter: EvaluationReport


class CardDecision(Frozen):
    """What one person decided."""

    approver: UUID
    decision: Decision
    decided_at: datetime


class CardApproval(Frozen):
    """A request to approve it, and what came of it."""

    id: UUID
    state: ApprovalState
    required: int
    requester: UUID
    decisions: tuple[CardDecision, ...]


class Card(Frozen):
    """Everything that is known of a version. None: from before it was kept, or of an adapter made elsewhere."""

    adapter: str
    number: int
    id: UUID
    model: str
    digest: Digest
    state: VersionState
    state_reason: str | None
    state_changed_at: datetime | None
    created_at: datetime
    data_class: DataClass
    labels: dict[str, str]
    description: str
    aliases: tuple[str, ...]
    base_model: str
    base_model_digest: Digest
    job: UUID | None
    # Whose key submitted the job, or brought the adapter here; and the person behind it.
    trainer_type: PrincipalType
    trainer: UUID
    person: UUID | None
    worker: str | None
    worker_id: UUID | None
    code_version: str | None
    spec: RunSpec | None
    report: RunReport | None
    data: tuple[CardFile, ...]
    evaluations: tuple[CardEvaluation, ...]
    approvals: tuple[CardApproval, ...]
    manifest: Manifest


def trainer_id(card: Card) -> str:
    """The public id of whoever submitted the job, or brought the adapter here."""
    kind = IdKind.USER if card.trainer_type is PrincipalType.USER else IdKind.SERVICE_ACCOUNT
    return public_id(kind, card.trainer)


# --- Markdown ---------------------------------------------------------------------------------------------------------


def markdown(card: Card) -> str:
    """The card for people: the same facts, in tables."""
    sections = (
        (f"{card.adapter}, version {card.number}", _identity(card)),
        ("Description", _quoted(card.description)),
        ("Base model and data", _data(card)),
        ("How it was trained", _training(card)),
        ("What was measured", _measurements(card)),
        ("Who decided what", _approvals(card)),
        ("Files", _table(("path", "bytes", "digest"), [(f.path, f.bytes, f.digest) for f in card.manifest.files])),
        ("Versions of packages", _packages(card)),
    )
    parts = [f"{'#' if place == 0 else '##'} {title}\n\n{text}" for place, (title, text) in enumerate(sections) if text]
    return "\n\n".join(parts) + "\n"


def _identity(card: Card) -> str:
    facts: list[tuple[str, object]] = [
        ("id", public_id(IdKind.ADAPTER_VERSION, card.id)),
        ("model", card.model),
        ("digest", card.digest),
        ("state", card.state if card.state_reason is None else f"{card.state}: {card.state_reason}"),
        ("aliases", ", ".join(card.aliases) or "none"),
        ("data class", card.data_class),
        ("labels", ", ".join(f"{name}={value}" for name, value in sorted(card.labels.items())) or "none"),
        ("made", _when(card.created_at)),
        ("trainer", trainer_id(card)),
        ("person behind it", public_id(IdKind.USER, card.person) if card.person else "not known"),
        ("job", public_id(IdKind.JOB, card.job) if card.job else "none: it was made elsewhere"),
        ("worker", card.worker or "not known"),
        ("code version", card.code_version or "not known"),
    ]
    return _table(("fact", "value"), facts)


def _data(card: Card) -> str:
    rows = [("base model", card.base_model, card.base_model_digest, "", "")]
    rows += [
        (
            f"{file.role} rows{', deleted since' if file.deleted else ''}",
            public_id(IdKind.FILE, file.id),
            file.digest,
            "" if file.rows is None else str(file.rows),
            file.data_class.value,
        )
        for file in card.data
    ]
    return _table(("what", "id or name", "digest", "rows", "data class"), rows)


def _training(card: Card) -> str:
    spec = card.spec
    if spec is None:
        return "Nobody here knows: the adapter was made elsewhere."
    method, optimiser = spec.lora, spec.optimiser
    facts: list[tuple[str, object]] = [(f"method.{name}", value) for name, value in method.model_dump().items()]
    facts += [(f"optimiser.{name}", value) for name, value in optimiser.model_dump().items()]
    facts += [
        ("seed", spec.seed),
        ("batch size", spec.batch_size),
        ("epochs", spec.n_epochs),
        ("steps", spec.total_steps),
        ("longest row, tokens", spec.data.max_seq_len),
    ]
    return _table(("setting", "value"), facts)


def _measurements(card: Card) -> str:
    measured = card.report.model_dump(exclude={"run", "versions"}) if card.report else {}
    rows: list[tuple[object, ...]] = [(name, value, "") for name, value in measured.items()]
    for evaluation in card.evaluations:
        base, adapter = evaluation.base.model_dump(), evaluation.adapter.model_dump()
        told = (name for name in adapter if name != "evaluation")
        of = public_id(IdKind.EVALUATION, evaluation.id)
        rows += [(f"{of}: {name}", adapter[name], base[name]) for name in told]
    return _table(("measurement", "this version", "base model alone"), rows) if rows else ""


def _packages(card: Card) -> str:
    return _table(("package", "version"), sorted(card.report.versions.items())) if card.report else ""


def _approvals(card: Card) -> str:
    rows: list[tuple[object, ...]] = []
    for approval in card.approvals:
        of = public_id(IdKind.APPROVAL, approval.id)
        asked = f"asked for; {approval.required} must approve; {approval.state}"
        rows.append((of, public_id(IdKind.USER, approval.requester), asked))
        rows += [
            (of, public_id(IdKind.USER, each.approver), f"{each.decision}, {_when(each.decided_at)}")
            for each in approval.decisions
        ]
    return _table(("request", "person", "what"), rows) if rows else "Nobody has asked for an approval."


def _when(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(value: object) -> str:
    """A value on one line. What people wrote cannot end the cell, or begin markup of its own."""
    shown = "" if value is None else " ".join(str(value).split())
    return "".join(f"\\{character}" if character in "\\|`*_<>[]#~" else character for character in shown)


def _quoted(text: str) -> str:
    return "\n".join(f"> {_cell(line)}" for line in text.splitlines())
