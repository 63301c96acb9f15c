import subprocess
import sys
from pathlib import Path

import pytest

from domain.plans import InspectPlan
from domain.runs import TooLong
from engine.inspection import inspect_files
from tests.tiny_engine import tiny_rows, write_rows, write_tiny_base_model


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    write_tiny_base_model(tmp_path / "base_model")
    return tmp_path


def plan(**changes: object) -> InspectPlan:
    settings = {"files": ("rows.jsonl",), "max_seq_len": 256, "too_long": TooLong.REFUSE}
    return InspectPlan.model_validate({**settings, **changes})


def test_inspect_never_loads_torch_or_transformers() -> None:
    program = "import engine.inspection, sys; sys.exit(bool({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_good_file_has_counts_and_a_preview_but_no_problem(inputs: Path) -> None:
    write_rows(inputs / "rows.jsonl", tiny_rows(5))
    report = inspect_files(plan(preview_rows=1), inputs)
    assert report.problems == ()
    (file,) = report.files
    assert (file.rows, file.too_long_rows, file.untrainable_rows) == (5, 0, 0)
    assert 0 < file.supervised_tokens < file.tokens
    (shown,) = file.preview
    assert "".join(text for text, _ in shown).startswith("<|im_start|>system\nBe brief.")
    assert "".join(text for text, wanted in shown if wanted) == "red<|im_end|>"


def test_rows_are_refused_by_line_and_code(inputs: Path) -> None:
    good, long, silent, choosy = tiny_rows(4)
    long["messages"][0]["content"] = "word " * 400
    silent["messages"][1]["weight"] = 0
    choosy["choices"] = ["purple", "orange"]
    write_rows(inputs / "rows.jsonl", [good, long, silent, choosy])
    report = inspect_files(plan(), inputs)
    assert [(problem.line, problem.code) for problem in report.problems] == [
        (2, "row_too_long"),
        (3, "no_trainable_tokens"),
        (4, "no_right_choice"),
    ]
    assert not any("word" in problem.message for problem in report.problems)


def test_long_rows_may_be_skipped_unless_none_is_left(inputs: Path) -> None:
    write_rows(inputs / "rows.jsonl", tiny_rows(3))
    report = inspect_files(plan(max_seq_len=8, too_long=TooLong.SKIP), inputs)
    assert report.files[0].too_long_rows == 3
    assert [(problem.line, problem.code) for problem in report.problems] == [(None, "no_trainable_tokens")]


def test_at_most_a_hundred_problems_are_listed(inputs: Path) -> None:
    write_rows(inputs / "rows.jsonl", tiny_rows(120))
    report = inspect_files(plan(max_seq_len=8), inputs)
    assert len(report.problems) == 100
    assert report.files[0].too_long_rows == 120


def test_a_damaged_line_and_a_broken_template_are_problems_not_crashes(inputs: Path) -> None:
    (inputs / "rows.jsonl").write_text('{"messages": 3}\n')
    assert [problem.code for problem in inspect_files(plan(), inputs).problems] == ["bad_message"]
    (inputs / "base_model" / "chat_template.jinja").write_text("{% for")
    assert [problem.code for problem in inspect_files(plan(), inputs).problems] == ["bad_chat_template"]
