"""The docs name what there is, and point at what is there."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from cli.access import as_markdown
from domain.audit import AuditEvent, Outcome
from domain.estimates import Unknown
from domain.failpoints import FailPoint
from domain.job_requests import LoraRequest
from domain.jobs import JobState
from domain.plans import FailureKind, ProgressRecord
from domain.policies import EvaluationRule, PolicyDocument, ceiling, check_narrows, parse
from domain.refusals import PolicyWidens, Refusal
from domain.verdicts import ReasonCode
from domain.waiting import WaitingCode
from runtime.settings import Settings
from services.audit_queries import QUERIES, Source
from workers.progress import metrics_of

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
# What the edge answers beside refusals: no such method, a bug, a part that is away.
EDGE_CODES = {"method_not_allowed": 405, "internal_error": 500, "service_unavailable": 503}


def _table(page: str, header: str) -> dict[str, list[str]]:
    """A page's table whose first column is `header`: what stands there in backticks, to the row's other cells."""
    rows: dict[str, list[str]] = {}
    lines = iter((DOCS / page).read_text().splitlines())
    for line in lines:
        if line.startswith(f"| {header} |"):
            next(lines)
            break
    for line in lines:
        if not line.startswith("|"):
            break
        first, *others = (cell.strip() for cell in line.strip("|").split("|"))
        for name in re.findall(r"`([^`]+)`", first):
            assert name not in rows, name
            rows[name] = others
    return rows


def _subclasses(kind: type[Refusal]) -> Iterator[type[Refusal]]:
    for subclass in kind.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def test_every_setting_is_told_with_its_default() -> None:
    told = {name: cells[0].strip("`") for name, cells in _table("settings.md", "setting").items()}
    assert told == {name: _shown_default(name) for name in Settings.model_fields}


def _shown_default(name: str) -> str:
    field = Settings.model_fields[name]
    if field.is_required():
        return "required"
    assert not isinstance(field.default, SecretStr)
    return "none" if field.default is None else str(field.default)


def test_every_error_code_is_told_with_its_status() -> None:
    told = {code: int(cells[0]) for code, cells in _table("api.md", "code").items()}
    assert told == EDGE_CODES | {kind.code: kind.status for kind in _subclasses(Refusal)}


def test_every_setting_of_an_adapter_and_every_measurement_is_told() -> None:
    assert set(_table("api.md", "field of `lora`")) >= set(LoraRequest.model_fields)
    record = {"run": "a", "step": 1, "total_steps": 2}
    for kind in ("train", "validation"):
        figures = {name: 1 for name in ProgressRecord.model_fields if name not in {*record, "kind", "message"}}
        measured = metrics_of(ProgressRecord.model_validate(record | figures | {"kind": kind}))
        assert measured
        assert set(_table("api.md", "measurement")) >= set(measured)


def test_every_gap_of_an_estimate_is_told() -> None:
    assert set(_table("api.md", "code in `gaps`")) == set(Unknown)


def test_every_way_a_job_fails_is_told() -> None:
    assert set(_table("job-lifecycle.md", "code")) >= set(FailureKind)


def test_every_reason_for_which_a_job_waits_is_told() -> None:
    assert set(_table("api.md", "`waiting.code`")) == set(WaitingCode)


def test_every_reason_of_a_policy_is_told() -> None:
    assert set(_table("policies.md", "reason")) == set(ReasonCode)


def test_every_rule_of_a_policy_is_told() -> None:
    sections = {name: field.annotation for name, field in PolicyDocument.model_fields.items()}
    rules = {"format"} | {
        f"{name}.{rule}" for name, section in sections.items() for rule in getattr(section, "model_fields", {})
    }
    assert set(_table("policies.md", "rule")) == rules
    assert set(_table("policies.md", "field of a rule of `release.evaluations`")) == set(EvaluationRule.model_fields)


def test_every_example_of_a_policy_is_one_and_the_departments_narrows_the_organisations() -> None:
    organisation, department = (
        (DOCS / "examples" / f"{scope}-policy.yaml").read_bytes() for scope in ("organisation", "department")
    )
    installation = Settings.model_fields["checkpoint_ttl_days"].default
    check_narrows(organisation, ceiling(None, checkpoint_days=installation), whose="the installation's")
    above = ceiling(parse(organisation), checkpoint_days=installation)
    check_narrows(department, above, whose="the organisation's")
    # The check is no formality: the wider of the two does not narrow the other.
    with pytest.raises(PolicyWidens):
        check_narrows(organisation, ceiling(parse(department), checkpoint_days=installation), whose="the department's")


def test_every_audit_event_is_told() -> None:
    assert set(_table("audit-events.md", "event")) == set(AuditEvent)
    page = (DOCS / "audit-events.md").read_text()
    assert all(f"`{outcome}`" in page for outcome in Outcome)


def test_every_saved_question_is_told_with_what_it_needs() -> None:
    told = {name: cells[0] for name, cells in _table("audit.md", "question").items()}
    needs = {query.name: query.needs.value if query.needs else "" for query in QUERIES.values()}
    of_one = {query.name for query in QUERIES.values() if query.source is Source.DOMAIN}
    assert told == {
        name: ", ".join(filter(None, (need, "a department" if name in of_one else ""))) for name, need in needs.items()
    }


def test_every_failpoint_is_told() -> None:
    assert set(_table("reliability.md", "point")) == set(FailPoint)


def test_every_fault_names_a_test_that_there_is() -> None:
    rows = [line for line in (DOCS / "reliability.md").read_text().splitlines() if re.match(r"\| \d+ \|", line)]
    assert [int(row.split("|")[1]) for row in rows] == list(range(1, len(rows) + 1))
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for row in rows:
        cell = row.split("|")[4]
        named = re.findall(r"`(test_\w+)`", cell)
        assert named or "none" in cell or "`make chaos`" in cell, row
        for name in named:
            assert f"def {name}(" in tests, name


def test_the_access_matrix_is_told_as_it_is() -> None:
    page = (DOCS / "access.md").read_text()
    assert "\n".join(as_markdown()) in page, "python -m cli.access writes it anew"


def test_every_role_and_definer_function_of_the_database_is_told() -> None:
    schema = "".join(path.read_text() for path in (ROOT / "migrations" / "versions").glob("*.sql"))
    reviewed = re.findall(r"CREATE FUNCTION (\w+)\([^;]*?SECURITY DEFINER", schema)
    assert set(_table("security.md", "function")) == set(reviewed)
    assert set(_table("security.md", "role")) == set(re.findall(r"^-- (tsugiki_\w+) ", schema, re.MULTILINE))


def test_every_state_of_a_job_is_told() -> None:
    told = "".join((DOCS / name).read_text() for name in ("job-lifecycle.md", "api.md"))
    assert [state for state in JobState if state not in told] == []


def test_every_target_of_the_makefile_that_docs_name_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        named = set(re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.MULTILINE))
        assert named <= targets, page


def test_every_function_that_the_lifecycle_names_exists() -> None:
    page = (DOCS / "job-lifecycle.md").read_text()
    for module, name in re.findall(r"`((?:domain|services|workers|runtime)(?:\.[a-z_]+)+)\.(\w+)`", page):
        source = (ROOT / module.replace(".", "/")).with_suffix(".py").read_text()
        assert re.search(rf"^(?:def |class ){name}\b|^{name}\b", source, re.MULTILINE), f"{module}.{name}"
    for name in re.findall(r"`leases\.(\w+)`", page):
        assert f"def {name}(" in (ROOT / "services" / "leases.py").read_text(), name


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_a_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#][^)]*)\)", page.read_text()):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve()
        assert linked.is_relative_to(ROOT), target
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(), re.MULTILINE)
            # As the forges make them: without punctuation.
            anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, target


def test_every_decision_says_why_and_what_follows() -> None:
    records = sorted((DOCS / "decisions").glob("*.md"))
    assert [record.name[:4] for record in records] == [f"{number:04}" for number in range(1, len(records) + 1)]
    for record in records:
        text = record.read_text()
        assert text.startswith(f"# {record.name[:4]} ")
        assert all(f"**{part}.**" in text for part in ("Context", "Decision", "Consequences")), record.name


def test_no_file_knows_the_machine_it_was_written_on() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    places = re.compile("|".join(map(re.escape, (f"{ROOT}/", f"{ROOT.parent / 'shared'}/", "../" + "shared"))))
    for name in listed.stdout.rstrip("\0").split("\0"):
        path = ROOT / name
        if path.suffix in {".md", ".py", ".yml", ".toml", ".sql", ".txt", ".json"} and path.is_file():
            assert not places.search(path.read_text()), name
