"""Training that goes on from a finished version: what of its settings may be said anew, and what may not."""

from collections.abc import Mapping

from domain.digests import Digest
from domain.frozen import Frozen
from domain.refusals import ConflictingFields, ParentDiffers
from domain.runs import LoraInit, LoraMethod

# What says how large the weights are and what they are multiplied by: a request's names, and a method's.
_OF_SHAPE = {
    "rank": "lora_rank",
    "alpha": "alpha",
    "target_modules": "target_modules",
    "use_rslora": "use_rslora",
    "use_dora": "use_dora",
    "bias": "bias",
    "rank_pattern": "rank_pattern",
    "alpha_pattern": "alpha_pattern",
}


class ParentFacts(Frozen):
    """What a job needs to know of the version that it goes on from: its manifest's digest, and its method."""

    digest: Digest
    method: LoraMethod


def continued(said: Mapping[str, object], parent: LoraMethod) -> LoraMethod:
    """The parent's method, with the dropout that the request says. said: the fields of its `lora` that it gives.

    Weights fit their own shapes only, and with another scale the first step would not compute what the parent computes.
    Raises ParentDiffers, and ConflictingFields for a start of its own.
    """
    if "init" in said:
        raise ConflictingFields("A job that continues from a version begins with its weights.", param="lora.init")
    for name, attribute in _OF_SHAPE.items():
        theirs = getattr(parent, attribute)
        if said.get(name) is not None and _comparable(said[name]) != _comparable(theirs):
            raise ParentDiffers(f"The version has another `{name}`: {_shown(theirs)}.", param=f"lora.{name}")
    changes = {"init": LoraInit.KAIMING, "dropout": said.get("dropout", parent.dropout)}
    return LoraMethod.model_validate(parent.model_dump() | changes, strict=False)


def _comparable(value: object) -> object:
    # The order of layers' names means nothing.
    return frozenset(value) if isinstance(value, list | tuple) else value


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
