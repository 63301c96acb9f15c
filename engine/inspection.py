"""`inspect`: what row files come to under a base model's tokenizer and chat template. No torch."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from domain.plans import InspectedFile, InspectPlan, InspectProblem, InspectReport
from domain.runs import TooLong
from engine.atomic import write_json
from engine.chat import BadChatTemplate, ChatTokenizer
from engine.tokenise import BadRow, Row, TokenisedRow, read_rows, right_choice, tokenise

MAX_PROBLEMS = 100


def main(arguments: Sequence[str]) -> int:
    """Write out/report.json. Problems are findings, not failures: the exit status is 0."""
    parser = argparse.ArgumentParser(prog="python -m engine inspect")
    parser.add_argument("--plan", required=True, type=Path)
    parser.add_argument("--inputs", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    options = parser.parse_args(arguments)
    plan = InspectPlan.model_validate_json(options.plan.read_bytes())
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "report.json", inspect_files(plan, options.inputs))
    return 0


def inspect_files(plan: InspectPlan, inputs: Path) -> InspectReport:
    """Tokenise and count every file of the plan, in its order."""
    try:
        chat = ChatTokenizer.load(inputs / "base_model")
    except BadChatTemplate as error:
        problem = InspectProblem(file=plan.files[0], line=None, code="bad_chat_template", message=str(error))
        return InspectReport(files=(), problems=(problem,))
    counts = [_Count(name, plan, chat) for name in plan.files]
    for count in counts:
        count.read(inputs / count.file)
    problems = [problem for count in counts for problem in count.problems]
    return InspectReport(files=tuple(count.result() for count in counts), problems=tuple(problems[:MAX_PROBLEMS]))


class _Count:
    """The running figures of one file."""

    def __init__(self, file: str, plan: InspectPlan, chat: ChatTokenizer) -> None:
        self.file, self.problems = file, list[InspectProblem]()
        self._plan, self._chat = plan, chat
        self._rows = self._tokens = self._supervised = self._longest = self._too_long = self._untrainable = 0
        self._preview: list[tuple[tuple[str, bool], ...]] = []

    def read(self, path: Path) -> None:
        """Count a file to its end, or to the first line that is no row."""
        try:
            for row in read_rows(path):
                self._read_row(row)
        except BadRow as error:
            self._refuse(None, "bad_message", str(error))
        # Rows that are skipped for their length may leave nothing to train on.
        if self._rows and not self._supervised and not self.problems:
            self._refuse(None, "no_trainable_tokens", f"None of the {self._rows} rows can be trained on.")

    def _read_row(self, row: Row) -> None:
        self._rows += 1
        try:
            tokenised = tokenise(row, self._chat)
        except BadChatTemplate as error:
            self._refuse(row.line, "bad_chat_template", str(error))
            return
        if len(self._preview) < self._plan.preview_rows:
            self._preview.append(tuple(self._shown(tokenised)))
        self._longest = max(self._longest, len(tokenised.ids))
        if len(tokenised.ids) > self._plan.max_seq_len:
            self._count_too_long(tokenised)
            return
        if row.choices and right_choice(row) is None:
            self._refuse(row.line, "no_right_choice", "None of the row's choices begins its last message.")
        if not tokenised.supervised_tokens:
            self._untrainable += 1
            self._refuse(row.line, "no_trainable_tokens", "The row has no token to learn from.")
        self._tokens += len(tokenised.ids)
        self._supervised += tokenised.supervised_tokens

    def _count_too_long(self, row: TokenisedRow) -> None:
        self._too_long += 1
        if self._plan.too_long is TooLong.REFUSE:
            limit = self._plan.max_seq_len
            self._refuse(row.line, "row_too_long", f"The row has {len(row.ids)} tokens; the limit is {limit}.")

    def _shown(self, row: TokenisedRow) -> Iterator[tuple[str, bool]]:
        return ((self._chat.show(token), wanted) for token, wanted in zip(row.ids, row.supervised, strict=True))

    def _refuse(self, line: int | None, code: str, message: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(InspectProblem(file=self.file, line=line, code=code, message=message))

    def result(self) -> InspectedFile:
        """The figures as the contract states them; tokens are those of rows that would be trained on."""
        return InspectedFile(
            file=self.file,
            rows=self._rows,
            tokens=self._tokens,
            supervised_tokens=self._supervised,
            longest_row_tokens=self._longest,
            too_long_rows=self._too_long,
            untrainable_rows=self._untrainable,
            preview=tuple(self._preview),
        )
