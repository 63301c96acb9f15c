"""How a worker made a version, in SLSA's words: told by the worker, not by the ranks that trained."""

from datetime import datetime
from importlib.metadata import version

from domain.attestations import TRAINING, Dependency, Provenance
from domain.plans import Compute, RunReport
from services.claims import Claim


def of_training(
    held: Claim, report: RunReport, compute: Compute, *, organisation: str, finished_at: datetime
) -> Provenance:
    """The statement's content. What was asked for is the frozen specification; what it was made from, by digest.

    The packages' versions are those that the run reported, of the worker's own installation.
    """
    data = held.spec.data
    files = {"training_file": data.train, "validation_file": data.validation, "evaluation_file": data.evaluation}
    base_model = Dependency(name=f"base_model:{held.spec.base_model}", digest=held.spec.base_model_digest)
    rows = [Dependency(name=name, digest=digest) for name, digest in files.items() if digest is not None]
    packages = [Dependency(name=f"package:{name}", version=told) for name, told in sorted(report.versions.items())]
    return Provenance(
        build_type=TRAINING,
        adapter=held.adapter,
        external_parameters=held.spec,
        internal_parameters={
            "job": held.job.hex,
            "epoch": held.epoch,
            "resumed_from_step": held.resume.step if held.resume else 0,
            "world_size": compute.world_size,
            "precision": report.precision.value,
            "device": report.device.value,
            "path": report.path.value,
            "token_budget": report.token_budget,
        },
        dependencies=(base_model, *rows, *packages),
        builder=f"urn:tsugiki:worker:{organisation}:{held.worker}",
        builder_versions={name: version(name) for name in ("tsugiki", "model-signing")},
        invocation=f"{held.job.hex}/{held.epoch}",
        finished_at=finished_at,
    )
