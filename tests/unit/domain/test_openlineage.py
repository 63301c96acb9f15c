"""A job's events by the rules of OpenLineage's specification 2-0-2, written down here from its text."""

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from domain.openlineage import AdapterState, FileUsed, RunFacts, run_event
from domain.outgoing import OutgoingKind

NOW = datetime(2026, 11, 25, 17, 0, tzinfo=UTC)
DIGEST = "sha256:" + "1" * 64
FACTS = RunFacts(
    organisation="acme",
    department=UUID(int=1),
    job=UUID(int=2),
    adapter="tickets",
    base_model="tiny",
    base_model_digest=DIGEST,
    files=[FileUsed(UUID(int=3), DIGEST, bytes=120, rows=4), FileUsed(UUID(int=4), DIGEST, bytes=5, rows=None)],
    parent=AdapterState("tickets", DIGEST),
    made=AdapterState("tickets", DIGEST),
    error="The rows are too long.",
    release="0.1.0",
)
TYPES = {
    OutgoingKind.JOB_STARTED: "START",
    OutgoingKind.JOB_SUCCEEDED: "COMPLETE",
    OutgoingKind.JOB_FAILED: "FAIL",
    OutgoingKind.JOB_CANCELLED: "ABORT",
}
# What the facets' own schemas require beside BaseFacet's two.
REQUIRED = {
    "jobType": {"processingType", "integration"},
    "processing_engine": {"version"},
    "errorMessage": {"message", "programmingLanguage"},
    "version": {"datasetVersion"},
    "dataQualityMetrics": {"columnMetrics"},
}
URI = re.compile(r"[a-z][a-z0-9+.-]*:[^\s]+")


def breaches(event: dict[str, Any]) -> Iterator[str]:
    """What in an event the specification forbids: required fields, the enumeration, formats, every facet's base."""
    for field in ("eventTime", "producer", "schemaURL", "run", "job"):
        if field not in event:
            yield f"{field} is required"
    if event.get("eventType") not in {"START", "RUNNING", "COMPLETE", "ABORT", "FAIL", "OTHER"}:
        yield "eventType is none of the specification's"
    if datetime.fromisoformat(event["eventTime"]).tzinfo is None:
        yield "eventTime is no RFC 3339 date-time"
    if not URI.fullmatch(event["producer"]):
        yield "producer is no URI"
    if event["schemaURL"] != "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent":
        yield "schemaURL is no RunEvent's"
    if str(UUID(event["run"]["runId"])) != event["run"]["runId"]:
        yield "runId is no UUID"
    for named in (event["job"], *event.get("inputs", []), *event.get("outputs", [])):
        if not named.get("namespace") or not named.get("name"):
            yield "namespace and name are required"
    yield from _facet_breaches(event)


def _facet_breaches(event: dict[str, Any]) -> Iterator[str]:
    datasets = [*event.get("inputs", []), *event.get("outputs", [])]
    holders = [event["run"], event["job"], *datasets]
    maps = [holder.get(kind, {}) for holder in holders for kind in ("facets", "inputFacets", "outputFacets")]
    for name, facet in (item for facets in maps for item in facets.items()):
        for field in ("_producer", "_schemaURL"):
            if not URI.fullmatch(facet.get(field, "")):
                yield f"{name} has no {field}"
        if missing := REQUIRED[name] - set(facet):
            yield f"{name} lacks {missing}"
        if not re.search(r"/facets/\d+-\d+-\d+/(\w+)\.json#/\$defs/\1$", facet["_schemaURL"]):
            yield f"{name} names no facet's schema"


@pytest.mark.parametrize("kind", TYPES)
def test_an_event_keeps_the_specification(kind: OutgoingKind) -> None:
    event = run_event(kind, NOW, FACTS)
    assert list(breaches(event)) == []
    assert event["eventType"] == TYPES[kind]
    assert len(event["inputs"]) == 4
    assert len(event["outputs"]) == (1 if kind is OutgoingKind.JOB_SUCCEEDED else 0)


def test_an_event_that_breaks_it_is_noticed() -> None:
    event = run_event(OutgoingKind.JOB_STARTED, NOW, FACTS)
    del event["job"]["name"]
    event["eventType"] = "BEGIN"
    del event["inputs"][0]["facets"]["version"]["_producer"]
    del event["run"]["facets"]["processing_engine"]["version"]
    assert len(list(breaches(event))) == 4


def test_inputs_and_outputs_are_named_by_id_with_their_digests() -> None:
    event = run_event(OutgoingKind.JOB_SUCCEEDED, NOW, FACTS)
    department = f"tsugiki://acme/proj_{UUID(int=1).hex}"
    assert [(each["namespace"], each["name"]) for each in (*event["inputs"], *event["outputs"])] == [
        ("tsugiki://acme", "base_models/tiny"),
        (department, f"files/file-{UUID(int=3).hex}"),
        (department, f"files/file-{UUID(int=4).hex}"),
        (department, "adapters/tickets"),
        (department, "adapters/tickets"),
    ]
    assert {each["facets"]["version"]["datasetVersion"] for each in event["inputs"]} == {DIGEST}
    measured = [each.get("inputFacets", {}).get("dataQualityMetrics", {}) for each in event["inputs"]]
    assert [(each.get("rowCount"), each.get("bytes")) for each in measured[1:3]] == [(4, 120), (None, 5)]
    assert (event["job"]["namespace"], event["job"]["name"]) == (department, "train/tickets")
    assert event["run"]["runId"] == str(UUID(int=2))


def test_only_a_failure_says_why() -> None:
    failed = run_event(OutgoingKind.JOB_FAILED, NOW, FACTS)
    assert failed["run"]["facets"]["errorMessage"]["message"] == "The rows are too long."
    for kind in set(TYPES) - {OutgoingKind.JOB_FAILED}:
        assert "errorMessage" not in run_event(kind, NOW, FACTS)["run"]["facets"]
    assert "errorMessage" not in run_event(OutgoingKind.JOB_FAILED, NOW, replace(FACTS, error=None))["run"]["facets"]
