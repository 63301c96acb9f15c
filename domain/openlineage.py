"""A job's run in the words of OpenLineage 2-0-2, for catalogues that collect lineage of more than adapters.

One OpenLineage job is the training of one adapter, one of its runs is one job here. Datasets are files, base models and
adapters; each carries as its version the digest of what it was then. No file's name, and no row, is in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from domain.digests import Digest
from domain.ids import IdKind, public_id
from domain.outgoing import OutgoingKind

EVENT_TYPES = {
    OutgoingKind.JOB_STARTED: "START",
    OutgoingKind.JOB_SUCCEEDED: "COMPLETE",
    OutgoingKind.JOB_FAILED: "FAIL",
    OutgoingKind.JOB_CANCELLED: "ABORT",
}
_SPEC = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
_FACETS = "https://openlineage.io/spec/facets"
_SCHEMAS = {
    "jobType": f"{_FACETS}/2-0-3/JobTypeJobFacet.json#/$defs/JobTypeJobFacet",
    "processing_engine": f"{_FACETS}/1-1-1/ProcessingEngineRunFacet.json#/$defs/ProcessingEngineRunFacet",
    "errorMessage": f"{_FACETS}/1-0-0/ErrorMessageRunFacet.json#/$defs/ErrorMessageRunFacet",
    "version": f"{_FACETS}/1-0-0/DatasetVersionDatasetFacet.json#/$defs/DatasetVersionDatasetFacet",
    "dataQualityMetrics": (
        f"{_FACETS}/1-0-2/DataQualityMetricsInputDatasetFacet.json#/$defs/DataQualityMetricsInputDatasetFacet"
    ),
}


@dataclass(frozen=True)
class FileUsed:
    """A file that the run reads."""

    id: UUID
    digest: Digest
    bytes: int
    rows: int | None


@dataclass(frozen=True)
class AdapterState:
    """One version of an adapter, read or written."""

    name: str
    digest: Digest


@dataclass(frozen=True)
class RunFacts:
    """What there is to tell of a job."""

    organisation: str
    department: UUID
    job: UUID
    adapter: str
    base_model: str
    base_model_digest: Digest
    files: Sequence[FileUsed]
    parent: AdapterState | None
    made: AdapterState | None
    error: str | None
    release: str


def run_event(kind: OutgoingKind, at: datetime, facts: RunFacts) -> dict[str, Any]:
    """The RunEvent of one of a job's events. KeyError for an event that is no job's."""
    document = _Document(facts)
    return {
        "eventType": EVENT_TYPES[kind],
        "eventTime": at.isoformat(),
        "producer": document.producer,
        "schemaURL": _SPEC,
        "run": {"runId": str(facts.job), "facets": document.run_facets(kind)},
        "job": {
            "namespace": document.namespace,
            "name": f"train/{facts.adapter}",
            "facets": document.facet("jobType", processingType="BATCH", integration="TSUGIKI", jobType="JOB"),
        },
        "inputs": document.inputs(),
        "outputs": document.outputs() if kind is OutgoingKind.JOB_SUCCEEDED else [],
    }


class _Document:
    """The parts of one event."""

    def __init__(self, facts: RunFacts) -> None:
        self._facts = facts
        self.producer = f"urn:tsugiki:service:{facts.release}"
        self._organisation = f"tsugiki://{facts.organisation}"
        self.namespace = f"{self._organisation}/{public_id(IdKind.DEPARTMENT, facts.department)}"

    def facet(self, name: str, /, **fields: Any) -> dict[str, Any]:
        return {name: {"_producer": self.producer, "_schemaURL": _SCHEMAS[name], **fields}}

    def run_facets(self, kind: OutgoingKind) -> dict[str, Any]:
        facets = self.facet("processing_engine", name="tsugiki", version=self._facts.release)
        if kind is OutgoingKind.JOB_FAILED and self._facts.error is not None:
            facets |= self.facet("errorMessage", message=self._facts.error, programmingLanguage="Python")
        return facets

    def inputs(self) -> list[dict[str, Any]]:
        facts = self._facts
        base = self._dataset(self._organisation, f"base_models/{facts.base_model}", facts.base_model_digest)
        parent = [self._adapter(facts.parent)] if facts.parent else []
        return [base, *map(self._file, facts.files), *parent]

    def outputs(self) -> list[dict[str, Any]]:
        return [self._adapter(self._facts.made)] if self._facts.made else []

    def _file(self, file: FileUsed) -> dict[str, Any]:
        dataset = self._dataset(self.namespace, f"files/{public_id(IdKind.FILE, file.id)}", file.digest)
        counted = {} if file.rows is None else {"rowCount": file.rows}
        measured = self.facet("dataQualityMetrics", bytes=file.bytes, columnMetrics={}, **counted)
        return dataset | {"inputFacets": measured}

    def _adapter(self, adapter: AdapterState) -> dict[str, Any]:
        return self._dataset(self.namespace, f"adapters/{adapter.name}", adapter.digest)

    def _dataset(self, namespace: str, name: str, digest: Digest) -> dict[str, Any]:
        return {"namespace": namespace, "name": name, "facets": self.facet("version", datasetVersion=digest)}
