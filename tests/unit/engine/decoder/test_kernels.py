"""Every native kernel against its reference in torch, in both number formats and at awkward sizes."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from engine.decoder.kernels import Factors, HeadRules, Heads, Normed, ThinProducts
from engine.decoder.kernels.build import compiled_for
from engine.decoder.kernels.native import NUMBERS, NativeKernels
from engine.decoder.kernels.reference import ReferenceKernels
from engine.decoder.kernels.thin import UNITS, NativeThin, TorchThin, unit_of
from engine.decoder.layout import lay_out

CPU = torch.device("cpu")
REFERENCE = ReferenceKernels()
# Relative: of a sum in another order, and of one rounding to eight bits.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2**-8}


@pytest.fixture(params=sorted(NUMBERS, key=str), ids=str)
def low(request: pytest.FixtureRequest) -> torch.dtype:
    dtype: torch.dtype = request.param
    return dtype


@pytest.fixture
def native(low: torch.dtype) -> NativeKernels:
    compiled = compiled_for(NUMBERS[low])
    if compiled is None:
        pytest.skip("this machine has no C++ compiler")
    return NativeKernels(compiled)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def assert_close(found: torch.Tensor, expected: torch.Tensor, low: torch.dtype) -> None:
    assert found.dtype == expected.dtype
    tolerance = TOLERANCE[low] if found.dtype == low else 1e-5
    scale = float(expected.float().abs().max())
    assert torch.allclose(found.float(), expected.float(), rtol=2 * tolerance, atol=tolerance * scale + 1e-20)


def both(
    call: Callable[[NativeKernels | ReferenceKernels, list[torch.Tensor]], None],
    native: NativeKernels,
    *given: torch.Tensor,
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Run a kernel and its reference on copies of the same tensors: pairs of what they left."""
    mine, theirs = [value.clone() for value in given], [value.clone() for value in given]
    call(native, mine)
    call(REFERENCE, theirs)
    return list(zip(mine, theirs, strict=True))


@pytest.mark.parametrize("shape", [(1, 1), (5, 33), (7, 64), (3, 577)])
@pytest.mark.parametrize("adds", [True, False])
def test_add_and_norm(native: NativeKernels, low: torch.dtype, shape: tuple[int, int], adds: bool) -> None:  # noqa: FBT001
    rows, width = shape
    h, y, weight = torch.randn(rows, width), torch.randn(rows, width).to(low), torch.rand(width)
    made = torch.zeros(rows, width), torch.zeros(rows, width, dtype=low), torch.zeros(rows)

    def call(kernels: NativeKernels | ReferenceKernels, out: list[torch.Tensor]) -> None:
        kernels.add_norm(h, y if adds else None, weight, 1e-5, out=Normed(*out))

    for found, expected in both(call, native, *made):
        assert_close(found, expected, low)


@pytest.mark.parametrize(("rows", "width"), [(1, 1), (5, 33), (3, 577)])
def test_gradient_of_norm(native: NativeKernels, low: torch.dtype, rows: int, width: int) -> None:
    h, dx, weight = torch.randn(rows, width), torch.randn(rows, width).to(low), torch.rand(width)
    scale = torch.rsqrt(h.square().mean(-1) + 1e-5)

    def call(kernels: NativeKernels | ReferenceKernels, out: list[torch.Tensor]) -> None:
        dh, dh_low, x = out
        kernels.norm_backward(dx, Normed(h, x, scale), weight, dh, dh_low_TD=dh_low)

    for found, expected in both(call, native, torch.randn(rows, width), dx, dx):
        assert_close(found, expected, low)


@pytest.mark.parametrize(("rows", "inner"), [(1, 1), (4, 31), (3, 160)])
def test_swiglu_and_its_gradient(native: NativeKernels, low: torch.dtype, rows: int, inner: int) -> None:
    gate_up = (torch.randn(rows, 2 * inner) * 4).to(low)
    gate_up[0, 0], gate_up[0, -1] = -200.0, 3.0
    da = torch.randn(rows, inner).to(low)
    for found, expected in both(lambda kernels, out: kernels.swiglu(out[0], out_TF=out[1]), native, gate_up, da):
        assert_close(found, expected, low)
    for found, expected in both(lambda kernels, out: kernels.swiglu_backward(*out), native, gate_up, da):
        assert_close(found, expected, low)


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("width", [2, 24, 64])
def test_heads_there_and_back(native: NativeKernels, low: torch.dtype, normed: bool, width: int) -> None:  # noqa: FBT001
    lengths, heads, key_heads = (5, 1, 33, 30, 0, 17), 6, 2
    layout = lay_out(lengths)
    norms = (torch.rand(width), torch.rand(width)) if normed else (None, None)
    rules = HeadRules(heads, key_heads, width, torch.randn(40, width // 2), torch.randn(40, width // 2), *norms, 1e-5)
    qkv = torch.randn(sum(lengths), (heads + 2 * key_heads) * width).to(low)
    parts = [torch.zeros(layout.slots * count * width, dtype=low) for count in (heads, key_heads, key_heads)]

    def split(kernels: NativeKernels | ReferenceKernels, out: list[torch.Tensor]) -> None:
        kernels.split_heads(qkv, layout, rules, out=Heads(*out))

    def merge(kernels: NativeKernels | ReferenceKernels, out: list[torch.Tensor]) -> None:
        kernels.merge_heads(Heads(*out[1:]), qkv if normed else None, layout, rules, out_TQ=out[0])

    def turn_around(kernels: NativeKernels | ReferenceKernels, out: list[torch.Tensor]) -> None:
        kernels.tokens_to_heads(out[0], layout, out=out[1])
        out[0].zero_()
        kernels.heads_to_tokens(out[1], layout, out_THW=out[0])

    for found, expected in both(split, native, *parts):
        assert_close(found, expected, low)
    for found, expected in both(merge, native, qkv, *(torch.randn_like(part) for part in parts)):
        assert_close(found, expected, low)
    tokens = torch.randn(sum(lengths), heads, width).to(low)
    (found, expected), _ = both(turn_around, native, tokens, parts[0])
    assert torch.equal(found, tokens)
    assert torch.equal(expected, tokens)


@pytest.mark.parametrize("length", [16, 48, 112])
def test_causal_softmax_and_its_gradient(native: NativeKernels, low: torch.dtype, length: int) -> None:
    scores = (torch.randn(4, 3 * length, length) * 30).to(low)
    ((found, expected),) = both(lambda kernels, out: kernels.causal_softmax(out[0], 0.25), native, scores)
    assert_close(found, expected, low)
    gradient = torch.randn_like(scores)

    def backward(kernels: NativeKernels | ReferenceKernels, out: list[torch.Tensor]) -> None:
        kernels.causal_softmax_backward(expected, out[0], 0.25)

    ((found, wanted),) = both(backward, native, gradient)
    assert_close(found, wanted, low)


@pytest.mark.parametrize("vocabulary", [1, 97, 1024])
def test_cross_entropy(native: NativeKernels, low: torch.dtype, vocabulary: int) -> None:
    rows = 6
    logits = (torch.randn(rows, vocabulary) * 5).to(low)
    targets = torch.randint(0, vocabulary, (rows,))
    targets[0], targets[1] = logits[0].argmax(), vocabulary - 1
    # Two equally likely tokens: the first of them counts as the prediction.
    logits[2] = logits[2].amax()
    targets[2] = 0
    logits[3] = logits[3].amax()
    targets[3] = vocabulary - 1
    made = torch.zeros(rows), torch.zeros(rows), torch.zeros(rows, dtype=torch.long)

    def call(kernels: NativeKernels | ReferenceKernels, out: list[torch.Tensor]) -> None:
        lost, sums, losses, correct = out
        kernels.cross_entropy(lost, targets, sums, losses_R=losses, correct_R=correct)

    (gradient, sums, losses, correct) = both(call, native, logits, *made)
    assert torch.equal(*correct)
    assert_close(*losses, low)
    assert_close(*sums, low)
    assert_close(*gradient, low)
    # Autograd's own gradient of the losses' sum.
    leaf = logits.float().requires_grad_()
    torch.nn.functional.cross_entropy(leaf, targets, reduction="sum").backward()
    assert leaf.grad is not None
    assert torch.allclose(gradient[0].float() / sums[0][:, None], leaf.grad, atol=2 * TOLERANCE[low])


@pytest.fixture(params=UNITS)
def unit(request: pytest.FixtureRequest) -> NativeThin:
    compiled = compiled_for(NUMBERS[torch.bfloat16])
    found = unit_of(compiled, request.param) if compiled else None
    if compiled is None or found is None:
        pytest.skip(f"no compiler here, or a processor without {request.param}")
    return NativeThin(compiled, found)


# Ranks and outputs of the blocks, out of 96 outputs: all of them; three that meet inside a group of 32; and rows that
# lie behind others' and reach their outputs too, with outputs that nobody reaches.
STACKS = {
    "rank 1": [(slice(0, 1), slice(0, 96))],
    "rank 8": [(slice(0, 8), slice(0, 96))],
    "rank 16": [(slice(0, 16), slice(0, 96))],
    "rank 24": [(slice(0, 24), slice(0, 96))],
    "rank 40": [(slice(0, 40), slice(0, 96))],
    "eights apart": [(slice(0, 8), slice(0, 32)), (slice(8, 16), slice(32, 64)), (slice(16, 24), slice(64, 96))],
    "uneven": [(slice(0, 3), slice(0, 40)), (slice(3, 4), slice(40, 72)), (slice(4, 17), slice(72, 96))],
    "one behind another": [(slice(0, 5), slice(0, 32)), (slice(5, 11), slice(0, 32))],
}


@pytest.mark.parametrize("blocks", STACKS.values(), ids=STACKS)
@pytest.mark.parametrize("tokens", [1, 8, 31, 32, 150])
def test_thin_products_are_those_of_torch(unit: NativeThin, tokens: int, blocks: list[tuple[slice, slice]]) -> None:
    x, dy, y, dx = (torch.randn(tokens, width).bfloat16() for width in (64, 96, 96, 64))
    ranks = blocks[-1][0].stop
    there = torch.zeros(ranks, 96)
    for block in blocks:
        there[block] = 1
    factors = Factors.of_blocks(torch.randn(ranks, 64).bfloat16(), (torch.randn(ranks, 96) * there).bfloat16(), blocks)

    def everything(products: ThinProducts) -> list[torch.Tensor]:
        out, through = y.clone(), dx.clone()
        thin = products.forward(x, factors, out)
        of_B, thin = products.backward(dy, factors, thin, dx_tI=through)  # noqa: N806
        return [out, through, of_B.where(there > 0, 0), products.finish(x, thin, ranks)]

    for found, expected in zip(everything(unit), everything(TorchThin()), strict=True):
        assert torch.allclose(found.float(), expected.float(), rtol=0, atol=0.02 * float(expected.float().abs().max()))


def test_a_tokens_thin_products_do_not_depend_on_its_neighbours(unit: NativeThin) -> None:
    blocks = STACKS["uneven"]
    factors = Factors.of_blocks(torch.randn(17, 64).bfloat16(), torch.randn(17, 96).bfloat16(), blocks)
    x, dy = torch.randn(70, 64).bfloat16(), torch.randn(70, 96).bfloat16()

    def made(tokens: slice) -> list[torch.Tensor]:
        y, dx = torch.zeros_like(dy[tokens]), torch.zeros_like(x[tokens])
        unit.backward(dy[tokens], factors, unit.forward(x[tokens], factors, y), dx_tI=dx)
        return [y, dx]

    for whole, part in zip(made(slice(0, 70)), made(slice(13, 50)), strict=True):
        assert torch.equal(whole[13:50], part)
        assert not torch.equal(whole[12:49], part)


BUILD = "from engine.decoder.kernels.build import compiled_for; import sys; sys.exit(compiled_for('bf16') is None)"


def test_processes_that_build_at_once_all_get_the_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TSUGIKI_KERNEL_CACHE", str(tmp_path / "cache"))
    processes = [subprocess.Popen([sys.executable, "-c", BUILD]) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    (only,) = (tmp_path / "cache").iterdir()
    assert only.suffix == ".so"


def test_without_a_compiler_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    compiled_for.cache_clear()
    try:
        assert compiled_for("bf16") is None
        assert compiled_for("bf16") is None
    finally:
        compiled_for.cache_clear()
    assert capfd.readouterr().err.splitlines() == [
        "Training goes on without native kernels, more slowly: there is no C++ compiler"
    ]
