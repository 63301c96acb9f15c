"""Every engine trains on the same documents."""

import json
import subprocess
from pathlib import Path

import pytest

from benchmarks.documents import IGNORED, MAX_TOKENS, MIN_TOKENS, ROWS, TOKENS
from benchmarks.process import ROOT, python
from engine.rows import load_chat, read_and_tokenise

COUNT = 20


@pytest.mark.model
def test_peers_get_the_tokens_that_our_engine_makes_of_the_rows(smollm2_folder: Path, tmp_path: Path) -> None:
    arguments = (f"--base-model={smollm2_folder}", f"--out={tmp_path}", f"--count={COUNT}")
    subprocess.run(python("-m", "benchmarks.documents", *arguments), cwd=ROOT, check=True)
    documents = json.loads((tmp_path / TOKENS).read_text())
    rows = [row for _, row in read_and_tokenise(tmp_path / ROWS, load_chat(smollm2_folder))]
    assert len(documents) == len(rows) == COUNT
    for document, row in zip(documents, rows, strict=True):
        assert document["input_ids"] == list(row.ids)
        assert MIN_TOKENS <= len(row.ids) <= MAX_TOKENS
        # transformers learns where a label is the token itself.
        learned = [label == token for label, token in zip(document["labels"], row.ids, strict=True)]
        assert learned == list(row.supervised)
        assert {label for label, wanted in zip(document["labels"], learned, strict=True) if not wanted} == {IGNORED}
