"""The contract of an engine process that is started before its work is known.

`python -m engine warm` reads a `WarmPlan` and inputs/base_model/, if that is there, and waits for inputs/order.json, an
`Order` that appears in one step. It does that one order as `train` would, files and exit status included, and ends.
"""

from pathlib import Path
from typing import Literal

from domain.frozen import Frozen
from domain.plans import Compute

ORDER = "order.json"


class WarmPlan(Frozen):
    """How the plan to come will probably compute. Ranks, threads and device have to be those of the plan."""

    kind: Literal["warm"] = "warm"
    compute: Compute


class Order(Frozen):
    """What a process of its own would have been given on its command line."""

    verb: Literal["train"] = "train"
    plan: Path
    inputs: Path
    out: Path
