from pathlib import Path

import pytest
import torch

from domain.plans import Precision
from engine.base_model import BaseModel, load_base_model
from engine.chat import ChatTokenizer
from engine.distributed import Ranks
from tests.tiny_engine import write_tiny_base_model

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base_model(tmp_path_factory.mktemp("tiny") / "base_model")


@pytest.fixture(scope="session")
def chat(tiny_folder: Path) -> ChatTokenizer:
    return ChatTokenizer.load(tiny_folder)


@pytest.fixture
def base(tiny_folder: Path) -> BaseModel:
    return load_base_model(tiny_folder, Precision.FP32, CPU)


@pytest.fixture
def one_rank() -> Ranks:
    # As the engine's processes do. Two threads of a busy machine wait for each other at every small product.
    torch.set_num_threads(1)
    return Ranks(0, 1, CPU)
