"""Who is measured: a label, a command, and what it needs."""

from dataclasses import dataclass

PEERS, OURS = "benchmarks.peers", "benchmarks.ours"


@dataclass(frozen=True)
class Engine:
    """One row of the table. `imports` must be installed, or it is not measured.

    rows_a_step are packed ones where the peer packs, and documents are what it then needs for as many steps.
    """

    name: str
    label: str
    precision: str
    module: str
    arguments: tuple[str, ...]
    rows_a_step: int = 8
    imports: tuple[str, ...] = ()
    needs_gpu: bool = False
    quick: bool = True

    @property
    def is_ours(self) -> bool:
        """Ours reads chat rows, a peer reads the same as tokens."""
        return self.module == OURS


def _peer(name: str, label: str, *arguments: str, precision: str = "bf16", **more: object) -> Engine:
    return Engine(name, label, precision, PEERS, arguments, **more)  # type: ignore[arg-type]


def _ours(name: str, label: str, *, path: str, precision: str = "bf16", **more: object) -> Engine:
    return Engine(name, label, precision, OURS, ("--path", path), **more)  # type: ignore[arg-type]


TRL, LIGER, UNSLOTH = ("trl",), ("liger_kernel",), ("unsloth",)

ENGINES = (
    _peer("peft-trainer-fp32", "peft + HF Trainer, fp32", "--trainer", "trainer", precision="fp32"),
    _peer("peft-trainer-bf16", "peft + HF Trainer, bf16", "--trainer", "trainer"),
    _peer(
        "peft-trainer-bf16-grouped",
        "peft + HF Trainer, bf16, rows of like length",
        "--trainer",
        "trainer",
        "--group-by-length",
        quick=False,
    ),
    _peer("trl-sft-bf16", "TRL SFTTrainer, bf16", "--trainer", "sft", imports=TRL),
    _peer(
        "trl-sft-packing-bf16",
        "TRL SFTTrainer, bf16, packing 2 x 512",
        "--trainer",
        "sft",
        "--packing",
        rows_a_step=2,
        imports=TRL,
    ),
    _peer(
        "peft-trainer-liger-bf16",
        "peft + HF Trainer + Liger, bf16",
        "--trainer",
        "trainer",
        "--liger",
        imports=LIGER,
        needs_gpu=True,
    ),
    _peer("unsloth-bf16", "Unsloth, bf16", "--trainer", "unsloth", imports=(*UNSLOTH, *TRL), needs_gpu=True),
    _ours("tsugiki-fp32", "Tsugiki, fp32", path="fast", precision="fp32"),
    _ours("tsugiki-bf16", "Tsugiki, bf16", path="fast"),
    _ours("tsugiki-bf16-12", "Tsugiki, bf16, 12 rows a step", path="fast", rows_a_step=12, quick=False),
    _ours("tsugiki-general-bf16", "Tsugiki, general path, bf16", path="general"),
)
# The step that every other is compared with.
REFERENCE = "peft-trainer-bf16"
# What jobs are trained with where whole jobs are compared.
JOB_PEER = "peft-trainer-bf16"
JOB_OURS = "tsugiki-bf16"


def named(name: str) -> Engine:
    """The engine of that name."""
    return next(engine for engine in ENGINES if engine.name == name)
