"""Whether a policy lets something happen: every reason against it, not the first, and which documents said so."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum

from domain.data_classes import DataClass
from domain.digests import Digest
from domain.frozen import Frozen
from domain.plans import EvaluationReport
from domain.policies import EvaluationRule, Measure, MethodName, Policy, PolicyVersion
from domain.refusals import PolicyViolation
from domain.runs import LoraMethod
from domain.servability import AdapterTraits, refusals

# Shares and losses are sums of rounded parts: a margin that is met to nine digits is met.
_TOLERANCE = 1e-9


class ReasonCode(StrEnum):
    """What a policy can have against a job or a version."""

    BASE_MODEL = "base_model_not_allowed"
    DATA_CLASS = "data_class_not_allowed"
    METHOD = "method_not_allowed"
    INIT = "init_not_allowed"
    RANK = "rank_not_allowed"
    NOT_EVALUATED = "not_evaluated"
    NOT_HELD_OUT = "not_held_out"
    TOO_FEW_ROWS = "too_few_rows"
    BEYOND_THRESHOLD = "beyond_threshold"
    NOT_BETTER_THAN_BASE = "not_better_than_base"
    NOT_COMPARABLE = "not_comparable_with_production"
    WORSE_THAN_PRODUCTION = "worse_than_production"
    NOT_SERVABLE = "not_servable"


class Purpose(StrEnum):
    """What it is asked for."""

    SUBMIT = "submit"
    APPROVAL = "approval"
    PROTECTED_ALIAS = "protected_alias"
    # An alias goes back to a version that it stood for before: that it is worse than the present one is the point.
    ROLLBACK = "rollback"


@dataclass(frozen=True)
class Reason:
    """One thing that stands against it. param: whose document, and the rule's path in it."""

    code: ReasonCode
    message: str
    param: str


@dataclass(frozen=True)
class Verdict:
    """What came of judging, and the policy it came from."""

    reasons: tuple[Reason, ...]
    policy: Policy

    @property
    def passed(self) -> bool:
        """Whether nothing stands against it."""
        return not self.reasons

    def require_passed(self) -> None:
        """Raise PolicyViolation with every reason."""
        if self.reasons:
            details = tuple(
                {"message": each.message, "param": each.param, "code": str(each.code)} for each in self.reasons
            )
            raise PolicyViolation(self.reasons[0].message, param=self.reasons[0].param, details=details)


class TrainingFacts(Frozen):
    """What is known of a run before it begins. data_class: the highest of the files it learns from."""

    base_model: str
    method: LoraMethod
    data_class: DataClass


class Evaluated(Frozen):
    """What some held-out rows came to, with the base model alone and with the version."""

    file: Digest
    base: EvaluationReport
    adapter: EvaluationReport


class VersionFacts(Frozen):
    """What is known of a version. evaluations: the newest of each file.

    production: the evaluations of the version that is in production now; None where there is none, or it is this one.
    """

    training: TrainingFacts
    traits: AdapterTraits
    learned_from: frozenset[Digest]
    evaluations: tuple[Evaluated, ...]
    production: tuple[Evaluated, ...] | None


# --- judging ----------------------------------------------------------------------------------------------------------


def judge_training(policy: Policy, facts: TrainingFacts) -> Verdict:
    """Whether a job may be submitted."""
    return Verdict(tuple(_each(policy, lambda version: _training(version, facts))), policy)


def judge_version(policy: Policy, facts: VersionFacts, purpose: Purpose) -> Verdict:
    """Whether a version may be approved, or an alias moved to it."""
    checks = _CHECKS[purpose]
    return Verdict(tuple(_each(policy, lambda version: _version(version, facts, checks))), policy)


def _each(policy: Policy, reasons: Callable[[PolicyVersion], Iterator[Reason]]) -> Iterator[Reason]:
    for version in policy.documents:
        yield from reasons(version)


class _Check(Enum):
    TRAINING = 1
    EVALUATIONS = 2
    PRODUCTION = 3
    SERVABILITY = 4


_CHECKS: Mapping[Purpose, frozenset[_Check]] = {
    Purpose.SUBMIT: frozenset({_Check.TRAINING}),
    Purpose.APPROVAL: frozenset(_Check),
    Purpose.PROTECTED_ALIAS: frozenset(_Check),
    Purpose.ROLLBACK: frozenset(_Check) - {_Check.PRODUCTION},
}


def _version(version: PolicyVersion, facts: VersionFacts, checks: frozenset[_Check]) -> Iterator[Reason]:
    if _Check.TRAINING in checks:
        yield from _training(version, facts.training)
    if _Check.EVALUATIONS in checks:
        for place, rule in enumerate(version.document.release.evaluations):
            yield from _Evaluations(rule, f"{version.scope}:release.evaluations[{place}]", facts, checks).reasons()
    if _Check.SERVABILITY in checks:
        for refusal in refusals(facts.traits, version.document.release.servable_by):
            param = f"{version.scope}:release.servable_by.{refusal.param}"
            yield Reason(ReasonCode.NOT_SERVABLE, refusal.message, param)


def _training(version: PolicyVersion, facts: TrainingFacts) -> Iterator[Reason]:
    rules, at = version.document.training, f"{version.scope}:training."
    asked: tuple[tuple[str, ReasonCode, str, frozenset[str]], ...] = (
        ("base_models", ReasonCode.BASE_MODEL, "The base model", frozenset({facts.base_model})),
        ("data_classes", ReasonCode.DATA_CLASS, "The data's class", frozenset({facts.data_class})),
        ("methods", ReasonCode.METHOD, "The method", methods_of(facts.method)),
        ("inits", ReasonCode.INIT, "The init", frozenset({facts.method.init})),
    )
    for rule, code, what, values in asked:
        allowed = getattr(rules, rule)
        if allowed is not None and (refused := values - set(allowed)):
            yield Reason(code, f"{what} is {', '.join(sorted(refused))}; allowed: {', '.join(allowed)}.", f"{at}{rule}")
    rank = max((facts.method.lora_rank, *facts.method.rank_pattern.values()))
    if rules.max_rank is not None and rank > rules.max_rank:
        message = f"The rank is {rank}; allowed: up to {rules.max_rank}."
        yield Reason(ReasonCode.RANK, message, f"{at}max_rank")


def methods_of(method: LoraMethod) -> frozenset[MethodName]:
    """The names under which a policy allows a method."""
    named = {MethodName.RSLORA: method.use_rslora, MethodName.DORA: method.use_dora}
    return frozenset(name for name, is_used in named.items() if is_used) or frozenset({MethodName.LORA})


# --- evaluations ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Evaluations:
    """One rule about evaluations, held against a version's."""

    rule: EvaluationRule
    param: str
    facts: VersionFacts
    checks: frozenset[_Check]

    def reasons(self) -> Iterator[Reason]:
        rule = self.rule
        found = [each for each in self.facts.evaluations if rule.file in {None, each.file}]
        if not found:
            rows = f"the rows {rule.file}" if rule.file else "held-out rows"
            yield self._reason(ReasonCode.NOT_EVALUATED, f"The version was not evaluated on {rows}.")
        for evaluated in found:
            value = _value(evaluated.adapter, rule.measure)
            if value is None:
                message = f"No row of the evaluation has choices, which {rule.measure} is measured by."
                yield self._reason(ReasonCode.NOT_EVALUATED, message)
                continue
            yield from self._of_the_rows(evaluated)
            yield from self._threshold(value)
            yield from self._beside_the_base(value, evaluated.base)
            if _Check.PRODUCTION in self.checks:
                yield from self._beside_production(value, evaluated.file)

    def _reason(self, code: ReasonCode, message: str) -> Reason:
        return Reason(code, message, self.param)

    def _of_the_rows(self, evaluated: Evaluated) -> Iterator[Reason]:
        if evaluated.file in self.facts.learned_from:
            yield self._reason(ReasonCode.NOT_HELD_OUT, "The version was evaluated on rows that it learned from.")
        report = evaluated.adapter
        rows = report.choice_rows if self.rule.measure is Measure.ACCURACY else report.rows
        if self.rule.min_rows is not None and rows < self.rule.min_rows:
            message = f"The evaluation has {rows} rows for {self.rule.measure}; required: {self.rule.min_rows}."
            yield self._reason(ReasonCode.TOO_FEW_ROWS, message)

    def _threshold(self, value: float) -> Iterator[Reason]:
        rule = self.rule
        for limit, words in ((rule.at_least, "at least"), (rule.at_most, "at most")):
            if limit is not None and _lacks(self._gain(value, limit), 0):
                message = f"The {rule.measure} is {value:.4f}; required: {words} {limit:g}."
                yield self._reason(ReasonCode.BEYOND_THRESHOLD, message)

    def _beside_the_base(self, value: float, base: EvaluationReport) -> Iterator[Reason]:
        margin, beside = self.rule.better_than_base_by, _value(base, self.rule.measure)
        if margin is not None and beside is not None and _lacks(self._gain(value, beside), margin):
            message = f"{self._said(value, beside, 'the base model')}; required: better by {margin:g}."
            yield self._reason(ReasonCode.NOT_BETTER_THAN_BASE, message)

    def _beside_production(self, value: float, file: Digest) -> Iterator[Reason]:
        rule, margin = self.rule, self._margin_over_production()
        if margin is None or self.facts.production is None:
            return
        same_rows = (each.adapter for each in self.facts.production if each.file == file)
        beside = next((_value(report, rule.measure) for report in same_rows), None)
        if beside is None:
            message = f"The version in production was not evaluated on the same rows by {rule.measure}."
            yield self._reason(ReasonCode.NOT_COMPARABLE, message)
        elif _lacks(self._gain(value, beside), margin):
            required = f"better by {margin:g}" if margin > 0 else f"worse by {abs(margin):g} at most"
            message = f"{self._said(value, beside, 'the version in production')}; required: {required}."
            yield self._reason(ReasonCode.WORSE_THAN_PRODUCTION, message)

    def _margin_over_production(self) -> float | None:
        """How much better it has to be; negative where it may be worse."""
        allowed = self.rule.worse_than_production_by_at_most
        return self.rule.better_than_production_by if allowed is None else -allowed

    def _gain(self, value: float, beside: float) -> float:
        """How much better the one value is than the other."""
        return beside - value if self.rule.measure is Measure.LOSS else value - beside

    def _said(self, value: float, beside: float, whose: str) -> str:
        return f"The {self.rule.measure} is {value:.4f}, and {beside:.4f} with {whose}"


def _lacks(gain: float, margin: float) -> bool:
    return gain < margin - _TOLERANCE


def _value(report: EvaluationReport, measure: Measure) -> float | None:
    value: float | None = getattr(report, measure)
    return value
