"""The demonstration's two departments as files: rows to train on and held-out rows, and the former as tokens for peers.

In a process of its own: the packages that the rows come from take seconds to import.
"""

import argparse
import json
from pathlib import Path

from benchmarks import settings
from benchmarks.documents import TOKENS, document
from benchmarks.reports import EVALUATION, LESSONS, TRAIN, Lesson, Lessons, write
from cli import demo
from engine.rows import load_chat, read_and_tokenise


def main() -> None:
    """Write a folder for each department, and what all of them teach."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.departments")
    parser.add_argument("--base-model", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    options = parser.parse_args()
    chat, lessons = load_chat(options.base_model), []
    for lesson in demo.LESSONS:
        rows = lesson.rows(demo.SEED)
        folder = options.out / rows.department
        folder.mkdir(parents=True)
        (folder / TRAIN).write_bytes(rows.jsonl("train"))
        (folder / EVALUATION).write_bytes(rows.jsonl("evaluation"))
        tokens = [document(row) for _, row in read_and_tokenise(folder / TRAIN, chat)]
        (folder / TOKENS).write_text(json.dumps(tokens))
        lessons.append(Lesson(rows.department, lesson.max_steps, settings.BATCH_SIZE, demo.LORA["learning_rate"]))
    write(Lessons(lessons), options.out / LESSONS)


if __name__ == "__main__":
    main()
