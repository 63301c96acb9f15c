"""Policies: what an organisation and its departments allow to be trained and released, as documents they can review.

A document is YAML, in versions that never change. The organisation's and the department's are both in force, and a rule
of either is enough to refuse: a department may only narrow. What a document leaves out, it does not rule.
"""

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from domain import policy_yaml
from domain.adapters import NAME_PATTERN
from domain.data_classes import REQUIRED_APPROVALS, DataClass
from domain.digests import Digest, digest_of
from domain.frozen import Frozen
from domain.parsing import finding_of
from domain.policy_yaml import Path, PolicyText
from domain.refusals import InvalidPolicy, PolicyWidens
from domain.runs import LoraInit, Rank
from domain.servability import Servers

# The alias of the version that new ones are compared with.
PRODUCTION = "production"

_MAX_FINDINGS = 100
_OWN_SENTENCE = "policy_rule"
_Told = TypeVar("_Told", InvalidPolicy, PolicyWidens)


class Scope(StrEnum):
    """Whose document: both are in force, the organisation's first."""

    ORGANISATION = "organisation"
    DEPARTMENT = "department"


class MethodName(StrEnum):
    """How adapters may be trained. A run that is both DoRA and rank-stabilised needs both to be allowed."""

    LORA = "lora"
    RSLORA = "rslora"
    DORA = "dora"


class Measure(StrEnum):
    """What `evaluate` reports of held-out rows. Of the loss less is better, of the others more."""

    LOSS = "loss"
    TOKEN_ACCURACY = "token_accuracy"  # noqa: S105 - tokens of a language
    ACCURACY = "accuracy"


Name = Annotated[str, Field(pattern=f"^{NAME_PATTERN}$")]
Margin = Annotated[float, Field(ge=0, le=1e6)]
Approvers = Annotated[int, Field(ge=1, le=5)]


class TrainingRules(Frozen):
    """What may be trained: asked when a job is submitted, and again of the version it made."""

    base_models: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    data_classes: Annotated[tuple[DataClass, ...], Field(min_length=1)] | None = None
    methods: Annotated[tuple[MethodName, ...], Field(min_length=1)] | None = None
    inits: Annotated[tuple[LoraInit, ...], Field(min_length=1)] | None = None
    # Of all layers; as it was asked for, and not what PiSSA makes of it.
    max_rank: Rank | None = None


class EvaluationRule(Frozen):
    """What an evaluation has to come to: of these rows, or of every file that the version was evaluated on.

    Thresholds and margins are in the measure's own unit: nats a token, or shares of one.
    """

    measure: Measure
    file: Digest | None = None
    min_rows: Annotated[int, Field(ge=1)] | None = None
    at_least: Annotated[float, Field(ge=0, le=1)] | None = None
    at_most: Annotated[float, Field(ge=0, le=1e6)] | None = None
    better_than_base_by: Margin | None = None
    better_than_production_by: Margin | None = None
    worse_than_production_by_at_most: Margin | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        wrong, right = ("at_least", "at_most") if self.measure is Measure.LOSS else ("at_most", "at_least")
        if getattr(self, wrong) is not None:
            facts = {"measure": self.measure.value, "right": right, "wrong": wrong}
            raise PydanticCustomError(_OWN_SENTENCE, "{measure} takes `{right}`, not `{wrong}`", facts)
        if None not in (self.better_than_production_by, self.worse_than_production_by_at_most):
            raise PydanticCustomError(_OWN_SENTENCE, "asks for better than production, and allows worse")
        return self


class Approvals(Frozen):
    """How many people have to approve, by the class of the data: never fewer than without a policy."""

    public: Approvers | None = None
    internal: Approvers | None = None
    confidential: Approvers | None = None
    restricted: Approvers | None = None


# The least there may be; the database refuses fewer.
LEAST_APPROVALS = Approvals.model_validate({str(each): count for each, count in REQUIRED_APPROVALS.items()})


class ReleaseRules(Frozen):
    """What a version has to be before it is approved, and before a protected alias moves to it."""

    evaluations: Annotated[tuple[EvaluationRule, ...], Field(max_length=32)] = ()
    servable_by: Servers = Servers()
    approvals: Approvals = Approvals()


class RetentionRules(Frozen):
    """How long things are kept; never longer than the installation keeps them."""

    checkpoint_days: Annotated[float, Field(gt=0, le=3650)] | None = None


class PolicyDocument(Frozen):
    """One policy. `format` is that of the document, so that later ones can be told from this."""

    format: Literal[1]
    training: TrainingRules = TrainingRules()
    release: ReleaseRules = ReleaseRules()
    retention: RetentionRules = RetentionRules()


# --- reading ----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=128)
def parse(content: bytes) -> PolicyDocument:
    """The document in a text. Raises InvalidPolicy with the line of the first finding, and all of them as details."""
    text = policy_yaml.read(content)
    try:
        # As JSON, where a list is what becomes a tuple, and nothing else is taken for anything else.
        return PolicyDocument.model_validate_json(json.dumps(text.value))
    except ValidationError as error:
        raise _refusal(error, text) from None


def _refusal(error: ValidationError, text: PolicyText) -> InvalidPolicy:
    errors = error.errors(include_url=False, include_input=False)[:_MAX_FINDINGS]
    # Of a list whose only item is wrong pydantic also says that it is too short.
    within = {each["loc"][:length] for each in errors for length in range(len(each["loc"]))}
    findings = sorted((text.line_of(each["loc"]), _sentence(each)) for each in errors if each["loc"] not in within)
    return _told(InvalidPolicy, findings)


def _sentence(error: Mapping[str, Any]) -> str:
    _kind, message, param = finding_of(error)
    return f"{param}: {error['msg']}." if error["type"] == _OWN_SENTENCE else message


def _told(kind: type[_Told], findings: Sequence[tuple[int, str]]) -> _Told:
    details = tuple(
        {"message": f"Line {line}: {sentence}", "param": f"{policy_yaml.PARAM}:{line}", "code": kind.code}
        for line, sentence in findings
    )
    return kind(details[0]["message"], param=details[0]["param"], details=details)


# --- narrowing --------------------------------------------------------------------------------------------------------


class _Narrower(StrEnum):
    """What a rule has to be beside the same rule further up."""

    PART = "allows more than"
    NOT_MORE = "is more than"
    NOT_LESS = "is less than"


# Evaluations and servers are only ever added to those asked for further up.
_NARROWING: Mapping[Path, _Narrower] = {
    ("training", "base_models"): _Narrower.PART,
    ("training", "data_classes"): _Narrower.PART,
    ("training", "methods"): _Narrower.PART,
    ("training", "inits"): _Narrower.PART,
    ("training", "max_rank"): _Narrower.NOT_MORE,
    **{("release", "approvals", each): _Narrower.NOT_LESS for each in DataClass},
    ("retention", "checkpoint_days"): _Narrower.NOT_MORE,
}


def check_narrows(content: bytes, above: PolicyDocument, *, whose: str) -> None:
    """Refuse a text that allows what the document above it does not. Raises PolicyWidens with every line."""
    document, text = parse(content), policy_yaml.read(content)
    findings = sorted(
        (text.line_of(path), f"{'.'.join(map(str, path))} {narrower} {whose}.")
        for path, narrower in _NARROWING.items()
        if _is_wider(_rule(document, path), _rule(above, path), narrower)
    )
    if findings:
        raise _told(PolicyWidens, findings)


def _rule(document: PolicyDocument, path: Path) -> Any:
    found: Any = document
    for part in path:
        found = getattr(found, str(part))
    return found


def _is_wider(own: Any, above: Any, narrower: _Narrower) -> bool:
    # What is left out is ruled by the document above alone.
    if own is None or above is None:
        return False
    if narrower is _Narrower.PART:
        return not set(above).issuperset(own)
    return bool(own > above if narrower is _Narrower.NOT_MORE else own < above)


def ceiling(organisation: PolicyDocument | None, *, checkpoint_days: float) -> PolicyDocument:
    """What a department's document may only narrow: the organisation's, or the installation's where there is none."""
    document = organisation or PolicyDocument(format=1)
    asked = document.release.approvals.model_dump(exclude_none=True)
    release = document.release.model_copy(update={"approvals": LEAST_APPROVALS.model_copy(update=asked)})
    days = min(checkpoint_days, document.retention.checkpoint_days or checkpoint_days)
    return document.model_copy(update={"release": release, "retention": RetentionRules(checkpoint_days=days)})


# --- what is in force -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PolicyVersion:
    """A document, and which version of whose it is; number is None where it is tried and not in force."""

    scope: Scope
    number: int | None
    digest: Digest
    document: PolicyDocument


@dataclass(frozen=True)
class Policy:
    """The documents that a decision goes by: the organisation's and the department's, where there are such."""

    documents: tuple[PolicyVersion, ...] = ()

    @property
    def digest(self) -> Digest | None:
        """Of one line a document, `<scope> <number> <digest>`; None where there is none."""
        lines = "".join(f"{each.scope} {each.number or '-'} {each.digest}\n" for each in self.documents)
        return digest_of(lines.encode()) if lines else None

    def replacing(self, tried: PolicyVersion) -> "Policy":
        """The same with another document of one scope."""
        kept = {each.scope: each for each in self.documents} | {tried.scope: tried}
        return Policy(tuple(kept[scope] for scope in Scope if scope in kept))

    def document_of(self, scope: Scope) -> PolicyDocument | None:
        """The document of a scope, where there is one."""
        return next((each.document for each in self.documents if each.scope is scope), None)

    def required_approvals(self, data_class: DataClass) -> int:
        """How many people have to approve what was trained on data of this class."""
        asked: Iterator[int | None] = (getattr(each.document.release.approvals, data_class) for each in self.documents)
        return max((REQUIRED_APPROVALS[data_class], *(count for count in asked if count is not None)))

    def checkpoint_days(self, installation: float) -> float:
        """How long a finished job's checkpoints are kept."""
        asked = (each.document.retention.checkpoint_days for each in self.documents)
        return min((installation, *(days for days in asked if days is not None)))


# --- what changed -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """A rule that two documents have differently, by its path; None where one of them has none."""

    path: str
    before: str | None
    after: str | None


def changes(before: PolicyDocument | None, after: PolicyDocument) -> list[Change]:
    """The rules that differ, by path. Comments and order of keys are no rules."""
    old, new = (dict(_flat(each)) if each else {} for each in (before, after))
    return [
        Change(path, old.get(path), new.get(path))
        for path in sorted(old.keys() | new.keys())
        if old.get(path) != new.get(path)
    ]


def _flat(document: PolicyDocument) -> Iterator[tuple[str, str]]:
    stack: list[tuple[str, Any]] = [("", document.model_dump(mode="json", exclude_none=True))]
    while stack:
        path, value = stack.pop()
        if isinstance(value, dict):
            stack += [(f"{path}.{key}" if path else key, each) for key, each in value.items()]
        elif isinstance(value, list) and any(isinstance(each, dict) for each in value):
            stack += [(f"{path}[{place}]", each) for place, each in enumerate(value)]
        elif value != []:
            yield path, json.dumps(value)


def text_diff(before: str, after: str, *, names: tuple[str, str]) -> str:
    """The two texts' differences, as `diff -u` shows them."""
    old, new = (text.splitlines() for text in (before, after))
    return "".join(f"{line}\n" for line in difflib.unified_diff(old, new, *names, lineterm=""))
