from pathlib import Path

import pytest
from transformers import AutoTokenizer

from engine.chat import BadChatTemplate, ChatTokenizer, Message
from engine.tokenise import Row, TokenisedRow, read_rows, tokenise
from tests.tiny_engine import CHAT_TEMPLATE, write_tiny_base_model


def conversation(*turns: tuple[str, str], unsupervised: frozenset[int] = frozenset()) -> Row:
    messages = (
        Message(role, content, supervised=role == "assistant" and place not in unsupervised)
        for place, (role, content) in enumerate(turns)
    )
    return Row(line=1, messages=tuple(messages), choices=())


def supervised_text(row: TokenisedRow, chat: ChatTokenizer) -> str:
    return "".join(chat.show(token) for token, wanted in zip(row.ids, row.supervised, strict=True) if wanted)


CONVERSATIONS = [
    conversation(("user", "what colour is sky"), ("assistant", "blue")),
    conversation(("system", "ICD?"), ("user", " two  spaces "), ("assistant", "\n a line first")),
    conversation(("user", "größer"), ("assistant", "<|im_end|> in the text"), ("user", "?"), ("assistant", "空")),
]


@pytest.mark.parametrize("row", CONVERSATIONS)
def test_ids_are_those_of_transformers(row: Row, chat: ChatTokenizer, tiny_folder: Path) -> None:
    reference = AutoTokenizer.from_pretrained(tiny_folder, local_files_only=True)
    messages = [{"role": message.role, "content": message.content} for message in row.messages]
    expected = reference.apply_chat_template(messages, return_dict=True)["input_ids"]
    assert list(tokenise(row, chat).ids) == expected


def test_the_answer_and_its_end_of_turn_are_supervised(chat: ChatTokenizer) -> None:
    # The end-of-turn token is this tokenizer's pad token, too.
    row = tokenise(conversation(("user", "what colour is sky"), ("assistant", "blue sky")), chat)
    assert supervised_text(row, chat) == "blue sky<|im_end|>"


def test_every_assistant_turn_is_supervised_but_those_of_weight_0(chat: ChatTokenizer) -> None:
    turns = [("user", "one"), ("assistant", "red"), ("user", "two"), ("assistant", "blue")]
    assert supervised_text(tokenise(conversation(*turns), chat), chat) == "red<|im_end|>blue<|im_end|>"
    first_left_out = conversation(*turns, unsupervised=frozenset({1}))
    assert supervised_text(tokenise(first_left_out, chat), chat) == "blue<|im_end|>"


def test_a_template_that_drops_earlier_answers_is_refused(tmp_path: Path) -> None:
    kept = "(message['content'] if loop.last or message['role'] != 'assistant' else 'gone')"
    forgetful = CHAT_TEMPLATE.replace("message['content']", kept)
    chat = ChatTokenizer.load(write_tiny_base_model(tmp_path, chat_template=forgetful))
    with pytest.raises(BadChatTemplate, match="rewrites earlier turns"):
        tokenise(conversation(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")), chat)


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}",
        "{% set _ = messages.append(1) %}",
        "{{ raise_exception('no') }}",
        "{{ messages | nosuchfilter }}",
        "{% for",
        "{{ messages[7].content }}",
    ],
)
def test_a_template_that_fails_or_reaches_out_of_the_sandbox_is_refused(template: str, tmp_path: Path) -> None:
    folder = write_tiny_base_model(tmp_path, chat_template=template)
    with pytest.raises(BadChatTemplate):
        tokenise(conversation(("user", "a"), ("assistant", "b")), ChatTokenizer.load(folder))


def test_templates_may_use_what_transformers_offers(tmp_path: Path) -> None:
    template = (
        "{{ eos_token }}{{ strftime_now('%Y') }}{{ {'ü': '<'} | tojson }}"
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% break %}{% endfor %}"
    )
    chat = ChatTokenizer.load(write_tiny_base_model(tmp_path, chat_template=template))
    assert chat.render(conversation(("user", "a"), ("user", "b")).messages) == '<|im_end|>2026{"ü": "<"}a'


def test_lines_count_from_one_and_line_separators_inside_strings_do_not_end_a_line(tmp_path: Path) -> None:
    line = '{"messages": [{"role": "user", "content": "a\u2028b"}, {"role": "assistant", "content": "c", "weight": 0}]}'
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + (line + "\r\n\r\n" + line).encode())
    rows = list(read_rows(path))
    assert [row.line for row in rows] == [1, 3]
    assert rows[0].messages[0].content == "a\u2028b"
    assert not rows[0].messages[1].supervised
