"""A base model's chat template and tokenizer, without transformers.

The template comes with the base model and is somebody else's program: it runs in jinja2's immutable sandbox, as
transformers runs it, with the same extras. Time and memory are limited by whoever starts the process.
"""

import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

# Some templates write the date. A run that is resumed tomorrow must see the tokens it saw today.
RENDER_DAY = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


class BadChatTemplate(Exception):  # noqa: N818 - named for the fact
    """The base model's chat template or tokenizer cannot be used for training; the message says why."""


@dataclass(frozen=True)
class Message:
    """One turn of a conversation; `supervised` turns are learned."""

    role: str
    content: str
    supervised: bool


class GenerationTag(Extension):
    """`{% generation %}…{% endgeneration %}`: transformers' mark around assistant text; here it only passes through."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Return what stands between the tags."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTokenizer:
    """Renders messages with the base model's own template and tokenises the text."""

    def __init__(self, tokenizer: Tokenizer, template: Template, special_tokens: dict[str, str]) -> None:
        self._tokenizer, self._template, self._special_tokens = tokenizer, template, special_tokens

    @classmethod
    def load(cls, base_model: Path) -> "ChatTokenizer":
        """Read tokenizer.json, tokenizer_config.json and the template; raises BadChatTemplate where one is unusable."""
        try:
            tokenizer = Tokenizer.from_file(str(base_model / "tokenizer.json"))
            config = json.loads((base_model / "tokenizer_config.json").read_text())
        except Exception as error:  # the tokenizers library raises nothing narrower
            raise BadChatTemplate("The base model's tokenizer files are missing or cannot be read.") from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        try:
            template = _environment().from_string(_template_source(base_model, config))
        except TemplateError as error:
            raise BadChatTemplate("The base model's chat template is not a valid template.") from error
        return cls(tokenizer, template, _special_tokens(config))

    def render(self, messages: Sequence[Message], *, ask: bool = False) -> str:
        """The conversation as text; with `ask`, up to where the assistant's next answer begins."""
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return self._template.render(
                messages=turns, add_generation_prompt=ask, tools=None, documents=None, **self._special_tokens
            )
        except (TemplateError, TypeError, ValueError, AttributeError, KeyError, IndexError) as error:
            raise BadChatTemplate("The base model's chat template refuses this conversation.") from error

    def encode(self, text: str) -> list[int]:
        """Token ids of rendered text; the template has written every special token itself."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def show(self, token: int) -> str:
        """One token as text, for people."""
        shown: str = self._tokenizer.decode([token], skip_special_tokens=False)
        return shown


def _template_source(base_model: Path, config: dict[str, Any]) -> str:
    beside = base_model / "chat_template.jinja"
    source = beside.read_text() if beside.is_file() else config.get("chat_template")
    if isinstance(source, list):
        source = {named["name"]: named["template"] for named in source}.get("default")
    if not isinstance(source, str):
        raise BadChatTemplate("The base model has no chat template.")
    return source


def _special_tokens(config: dict[str, Any]) -> dict[str, str]:
    found = {}
    for key, value in config.items():
        text = value.get("content") if isinstance(value, dict) else value
        if key.endswith("_token") and isinstance(text, str):
            found[key] = text
    return found


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", GenerationTag]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = RENDER_DAY.strftime
    return environment


def _to_json(value: Any, **options: Any) -> str:
    # jinja2's own filter escapes HTML characters; chat templates expect plain JSON.
    return json.dumps(value, **{"ensure_ascii": False, **options})


def _raise_exception(message: str) -> None:
    raise TemplateError(message)
