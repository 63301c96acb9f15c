"""A plan's items, runs or evaluations, one after another on a base model loaded once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from domain.plans import Precision
from engine.base_model import BaseModel, load_base_model
from engine.chat import ChatTokenizer
from engine.distributed import Ranks
from engine.failures import RunFailed, record_failure
from engine.rows import load_chat


@dataclass(frozen=True)
class LoadedBase:
    """The base model with its chat template and tokenizer."""

    base: BaseModel
    chat: ChatTokenizer

    @classmethod
    def load(cls, folder: Path, precision: Precision, device: torch.device) -> "LoadedBase":
        """Read a model folder. Raises BadBaseModel."""
        return cls(chat=load_chat(folder), base=load_base_model(folder, precision, device))


def work_through(
    names: Sequence[str],
    out: Path,
    ranks: Ranks,
    *,
    load: Callable[[], LoadedBase],
    work: Callable[[LoadedBase, str], None],
) -> int:
    """Do the work of every item; each ends in files below out/<name>. The exit status of a process that did.

    RunFailed was seen by every rank alike, and the next item goes on. Anything else may have happened on one rank only,
    whose peers learn of it by its end: with several ranks the status is 1 and the rest of the plan is not done.
    """
    try:
        loaded = load()
    except Exception as error:  # noqa: BLE001 - the edge: every item gets its failure.json
        for name in names:
            record_failure(out / name, error)
        return 0 if isinstance(error, RunFailed) else 1
    for name in names:
        try:
            work(loaded, name)
        except Exception as error:  # noqa: BLE001 - the edge: an item's failure must not be silent
            record_failure(out / name, error)
            if ranks.world_size > 1 and not isinstance(error, RunFailed):
                return 1
    return 0
