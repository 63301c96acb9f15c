"""What a worker refuses to begin with."""

import sys
from pathlib import Path
from typing import Any

import pytest

from runtime.settings import Settings, as_environment
from workers import main


@pytest.fixture
def begins(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Whether a worker of a role and settings would begin, on a machine without bitsandbytes."""
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    begun: list[Settings] = []
    monkeypatch.setattr(main, "exec_without_secrets", lambda settings, _argv: begun.append(settings))

    def begins(role: str, **changes: object) -> bool:
        for name, value in as_environment(settings.model_copy(update=changes)).items():
            monkeypatch.setenv(name, value)
        main.main([role])
        return bool(begun)

    return begins


def test_a_train_worker_that_cannot_keep_a_quantised_base_does_not_begin(begins: Any) -> None:
    with pytest.raises(SystemExit, match=r"TSUGIKI_QUANTISATION is nf4.*tsugiki\[quantised\]"):
        begins("train", quantisation="nf4")


@pytest.mark.parametrize(("role", "quantisation"), [("train", "none"), ("validate", "nf4")])
def test_who_needs_no_bitsandbytes_begins_without(role: str, quantisation: str, begins: Any) -> None:
    assert begins(role, quantisation=quantisation)


def test_a_train_worker_without_a_key_to_sign_with_does_not_begin_and_a_validate_worker_does(
    begins: Any, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit, match="cannot be read"):
        begins("train", signing_key_file=tmp_path / "missing.pem")
    assert begins("validate", signing_key_file=tmp_path / "missing.pem")


def test_with_bitsandbytes_a_train_worker_begins(begins: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "find_spec", lambda _name: object())
    assert begins("train", quantisation="int8")
