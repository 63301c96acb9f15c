from pathlib import Path

import pytest
import torch

from engine.stream import Part
from tests.unit.engine.decoder.random_models import (
    MODELS,
    Targets,
    by_peft,
    load_path,
    random_adapter,
    random_rows,
    relative_error,
    write_model,
)

# PEFT asks transformers by a name that is on its way out.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

RAGGED = (3, 17, 5, 30, 29, 2, 11)


@pytest.fixture(scope="session", params=sorted(MODELS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "base_model", request.param)


def test_loss_and_every_gradient_are_those_of_peft(folder: Path) -> None:
    path, targets = load_path(folder), Targets(rank=4)
    adapter = random_adapter(path, targets, seed=1)
    part = Part(adapter, random_rows(RAGGED, seed=2), scale=0.01)
    expected = by_peft(folder, adapter, targets, part, dtype=torch.float32)
    passed = path.gradients([part])
    assert passed.sums[0].loss == pytest.approx(expected.loss, rel=1e-5)
    assert passed.sums[0].correct == expected.correct
    assert adapter.grads.keys() == expected.gradients.keys()
    for name, gradient in expected.gradients.items():
        assert relative_error(adapter.grads[name], gradient) < 1e-4, name
