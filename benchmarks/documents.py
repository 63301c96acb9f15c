"""Short instruction rows of the kind departments have, built from the docstrings of installed packages.

`python -m benchmarks.documents` writes them twice: as chat rows (JSON Lines) for our engine, which tokenises them
itself, and as the very same token ids and labels for the peers. In a process of its own: it imports what it quotes.
"""

import argparse
import importlib
import inspect
import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import TypedDict

from engine.chat import ChatTokenizer, Message
from engine.tokenise import Row, TokenisedRow, tokenise

ROWS = "documents.jsonl"
TOKENS = "documents.json"

# Separated by spaces.
MODULES = (
    "abc argparse array ast asyncio base64 bisect bz2 calendar cmd codecs collections concurrent.futures configparser "
    "contextlib copy csv ctypes dataclasses datetime decimal difflib dis email.message email.policy enum filecmp "
    "fractions functools gc getpass glob gzip hashlib heapq hmac html http.client http.cookies imaplib inspect "
    "ipaddress itertools json locale logging lzma mailbox math mmap multiprocessing netrc optparse os os.path pathlib "
    "pickle pickletools plistlib pprint queue random re sched secrets selectors shelve shlex shutil signal smtplib "
    "socket sqlite3 ssl stat statistics string struct subprocess tarfile tempfile textwrap threading time timeit "
    "tokenize traceback types typing unittest urllib.parse urllib.request uuid warnings weakref xml.dom.minidom "
    "xml.etree.ElementTree zipfile zlib numpy numpy.fft numpy.linalg numpy.random torch.fft torch.linalg "
    "torch.nn torch.nn.functional torch.optim"
)

QUESTIONS = (
    "What does {} do?",
    "What is {} used for?",
    "Describe {}.",
    "Summarise {}.",
)
SYSTEM = "Python"
# A row is cut to one of these, so that lengths spread as those of tickets and notes do.
ROOMS = (60, 100, 140, 200)
MIN_TOKENS, MAX_TOKENS = 23, 200
MIN_DOCSTRING_CHARACTERS = 25
MIN_ANSWER_WORDS = 3
SEED = 0
# What transformers leaves out of the loss.
IGNORED = -100


class Document(TypedDict):
    """One row as a peer gets it: labels are the ids where supervised, else IGNORED."""

    input_ids: list[int]
    labels: list[int]


def main() -> None:
    """Write both files into a folder."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.documents")
    parser.add_argument("--base-model", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--count", required=True, type=int)
    options = parser.parse_args()
    written = build(ChatTokenizer.load(options.base_model), options.count)
    if len(written) < options.count:
        raise SystemExit(f"the installed packages give only {len(written)} documents")
    options.out.mkdir(parents=True, exist_ok=True)
    rows = ({"messages": [{"role": m.role, "content": m.content} for m in row.messages]} for row, _ in written)
    (options.out / ROWS).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    (options.out / TOKENS).write_text(json.dumps([document(tokenised) for _, tokenised in written]))


def build(chat: ChatTokenizer, count: int) -> list[tuple[Row, TokenisedRow]]:
    """The first `count` rows of a fixed shuffle, each with its tokens; `line` counts from 1."""
    random = Random(SEED)  # noqa: S311 - the same documents every time
    found = sorted(docstrings())
    random.shuffle(found)
    rows: list[tuple[Row, TokenisedRow]] = []
    for name, docstring in found:
        if len(rows) == count:
            break
        question, room = random.choice(QUESTIONS).format(name), random.choice(ROOMS)
        cut = _longest_that_fits(question, docstring.split(), room, chat=chat, line=len(rows) + 1)
        if cut is not None:
            rows.append(cut)
    return rows


def docstrings() -> Iterator[tuple[str, str]]:
    """Dotted names of public callables and their docstrings on one line; each docstring once."""
    seen = set()
    for name, thing in _public_callables():
        docstring = re.sub(r"\s+", " ", inspect.getdoc(thing) or "").strip()
        if len(docstring) >= MIN_DOCSTRING_CHARACTERS and docstring not in seen:
            seen.add(docstring)
            yield name, docstring


def _public_callables() -> Iterator[tuple[str, object]]:
    for module_name in MODULES.split():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                module = importlib.import_module(module_name)
            except ImportError:  # a Python built without it, or a machine without torch
                continue
            for name, thing in _public(module):
                yield f"{module_name}.{name}", thing
                if inspect.isclass(thing):
                    yield from ((f"{module_name}.{name}.{inner}", method) for inner, method in _public(thing))


def _public(namespace: object) -> list[tuple[str, object]]:
    return [(name, thing) for name, thing in vars(namespace).items() if not name.startswith("_") and callable(thing)]


def _longest_that_fits(
    question: str, words: list[str], room: int, *, chat: ChatTokenizer, line: int
) -> tuple[Row, TokenisedRow] | None:
    """The row with as many words of the answer as the room has tokens for; None where too few fit."""
    fits, beyond = 0, min(len(words), MAX_TOKENS) + 1
    best = None
    while beyond - fits > 1:
        middle = (fits + beyond) // 2
        row = _row(question, " ".join(words[:middle]), line)
        tokenised = tokenise(row, chat)
        if len(tokenised.ids) <= room:
            fits, best = middle, (row, tokenised)
        else:
            beyond = middle
    return best if best and fits >= MIN_ANSWER_WORDS and len(best[1].ids) >= MIN_TOKENS else None


def _row(question: str, answer: str, line: int) -> Row:
    turns = (
        Message("system", SYSTEM, supervised=False),
        Message("user", question, supervised=False),
        Message("assistant", answer, supervised=True),
    )
    return Row(line=line, messages=turns, choices=())


def document(row: TokenisedRow) -> Document:
    """The row as ids and labels."""
    labels = [token if wanted else IGNORED for token, wanted in zip(row.ids, row.supervised, strict=True)]
    return Document(input_ids=list(row.ids), labels=labels)


if __name__ == "__main__":
    main()
