"""How a run goes on from a finished adapter: with its weights, and with an optimiser that knows nothing of them."""

from pathlib import Path

from domain.digests import Digest, manifest_of_tree
from engine.adapter import Adapter
from engine.failures import BadData
from engine.peft_format import read_weights


def take_over(adapter: Adapter, folder: Path, digest: Digest) -> None:
    """Set the adapter's weights to those of the parent's folder: the first step computes what the parent computes.

    Raises BadData where the folder is not the one of the digest, or has other layers or shapes.
    """
    if not folder.is_dir() or manifest_of_tree(folder).digest != digest:
        raise BadData("The parent adapter's files are not those that the job names.")
    try:
        adapter.load_weights(read_weights(folder))
    except ValueError as error:
        raise BadData("The parent adapter does not fit the job's settings or the base model.") from error
