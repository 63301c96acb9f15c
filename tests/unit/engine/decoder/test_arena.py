"""Memory laid out anew in every pass."""

import pytest
import torch

from engine.decoder.arena import ALIGNED_BYTES, Arena


@pytest.fixture
def arena(monkeypatch: pytest.MonkeyPatch) -> Arena:
    monkeypatch.setattr("engine.decoder.arena.SLAB_BYTES", 1024)
    return Arena(torch.device("cpu"))


def take(arena: Arena, name: str, numbers: int, place: int = 0) -> torch.Tensor:
    return arena.take(name, place, (numbers,), torch.float32)


def test_tensors_of_one_pass_do_not_overlap(arena: Arena) -> None:
    sizes = [1, 17, 200, 3, 256, 300]
    tensors = [take(arena, "x", size, place) for place, size in enumerate(sizes)]
    for place, tensor in enumerate(tensors):
        tensor.fill_(place)
    assert [tensor.tolist() for tensor in tensors] == [[place] * size for place, size in enumerate(sizes)]
    assert all(tensor.data_ptr() % ALIGNED_BYTES == 0 for tensor in tensors)


def test_a_name_and_place_asked_for_again_is_the_same_memory(arena: Arena) -> None:
    first = take(arena, "x", 16)
    assert take(arena, "x", 12).data_ptr() == first.data_ptr()
    assert take(arena, "x", 17).data_ptr() != first.data_ptr()
    assert arena.take("x", 0, (16,), torch.bfloat16).data_ptr() != first.data_ptr()


def test_a_longer_pass_uses_the_memory_of_a_shorter_one(arena: Arena) -> None:
    places = {take(arena, "x", 16).data_ptr(), take(arena, "y", 32).data_ptr()}
    held = arena.held_bytes
    arena.begin_pass()
    assert take(arena, "x", 32).data_ptr() in places
    assert take(arena, "y", 64).data_ptr() - min(places) == 32 * 4
    assert held == (16 + 32) * 4
    assert arena.held_bytes == (32 + 64) * 4
    arena.begin_pass()
    take(arena, "x", 1)
    assert arena.held_bytes == (32 + 64) * 4


def test_what_is_larger_than_a_slab_gets_one_of_its_own(arena: Arena) -> None:
    take(arena, "x", 16)
    assert take(arena, "y", 1000).numel() == 1000
    assert arena.held_bytes == (16 + 1000) * 4


def test_a_change_of_one_tensor_is_no_change_of_another_for_autograd(arena: Arena) -> None:
    kept, other = take(arena, "x", 4).requires_grad_(), take(arena, "y", 4)
    product = (kept * kept).sum()
    other.zero_()
    (gradient,) = torch.autograd.grad(product, kept)
    assert torch.equal(gradient, 2 * kept.detach())
