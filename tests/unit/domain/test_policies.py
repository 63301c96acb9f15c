"""What a policy may be, and the exact line of what it may not be."""

import random

import pytest

from domain.data_classes import DataClass
from domain.digests import digest_of
from domain.policies import (
    Change,
    Measure,
    MethodName,
    Policy,
    PolicyDocument,
    PolicyVersion,
    Scope,
    ceiling,
    changes,
    check_narrows,
    parse,
    text_diff,
)
from domain.policy_yaml import MAX_BYTES, MAX_NODES
from domain.refusals import InvalidPolicy, PolicyWidens
from domain.runs import LoraInit

WHOLE = b"""\
# What customer care may train, and what may be served.
format: 1
training:
  base_models: [smollm2-135m, "qwen3-0.6b"]
  data_classes: [public, internal, confidential]
  methods:
    - lora
    - rslora
  inits: [kaiming, eva]
  max_rank: 64
release:
  evaluations:
    - measure: accuracy
      file: sha256:0000000000000000000000000000000000000000000000000000000000000000
      min_rows: 200
      at_least: 0.8
      better_than_base_by: 0.05
      worse_than_production_by_at_most: 0.01
    - {measure: loss, at_most: 1.5, better_than_production_by: 0}
  servable_by:
    vllm: {max_lora_rank: 64}
  approvals: {confidential: 2, restricted: 3}
retention:
  checkpoint_days: 14
"""
# Nine levels of nine aliases each unfold to 387 million words.
BOMB = b"format: 1\na: &a [x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (name, name, b",".join([b"*%c" % (name - 1)] * 9)) for name in b"bcdefghij"
)

EVALUATIONS = b"format: 1\nrelease:\n  evaluations:\n"
SERVERS = b"format: 1\nrelease:\n  servable_by:\n"
BOTH = b"      better_than_production_by: 1\n      worse_than_production_by_at_most: 1\n"

# What it is, its text, the line it is refused at, and a part of what is said.
HOSTILE = [
    ("an alias bomb", BOMB, 2, "Anchors and aliases"),
    ("an alias to nothing", b"format: 1\ntraining: *nobody\n", 2, "Anchors and aliases"),
    ("an alias for a key", b"format: 1\n*a : 1\n", 2, "A key is a word"),
    ("an anchor at a key", b"&a format: 1\n", 1, "A key is a word"),
    ("a mapping merged in", b"format: 1\n<<: {training: {max_rank: 8}}\n", 2, "is not known here"),
    ("a tag that runs code", b"format: 1\ntraining: !!python/object/apply:os.system [id]\n", 2, "Tags"),
    ("a tag on a number", b"format: !!int 1\n", 1, "Tags"),
    ("a tag on a key", b"format: 1\n!!str training: {}\n", 2, "Tags"),
    ("a tag of nothing", b"format: 1\ntraining:\n  max_rank: ! 8\n", 3, "Tags"),
    ("a tag's handle", b"%TAG ! tag:yaml.org,2002:python/\n---\nformat: 1\n", 1, "Directives"),
    ("another YAML", b"%YAML 1.1\n---\nformat: 1\n", 1, "Directives"),
    ("a key twice", b"format: 1\ntraining:\n  max_rank: 8\n  max_rank: 256\n", 4, "`max_rank` stands twice"),
    ("a key twice, once in quotes", b'format: 1\n"for\\x6dat": 1\n', 2, "`format` stands twice"),
    ("a key twice in one line", b"format: 1\ntraining: {max_rank: 8, max_rank: 9}\n", 2, "stands twice"),
    ("an unknown key", b"format: 1\ntraining:\n  max_rnak: 8\n", 3, "training.max_rnak is not known here"),
    ("an unknown section", b"format: 1\nserving: {}\n", 2, "serving is not known here"),
    ("an unknown engine", SERVERS + b"    abacus: {}\n", 4, "is not known here"),
    ("a very long key", b"format: 1\n" + b"k" * 5000 + b": 1\n", 2, "This is not valid YAML"),
    ("a list for a key", b"format: 1\n? [a, b]\n: 1\n", 2, "A key is a word"),
    ("no format", b"training:\n  max_rank: 8\n", 1, "format is missing"),
    ("a format to come", b"training: {}\nformat: 2\n", 2, "format must be 1"),
    ("text for a number", b"format: 1\ntraining:\n  max_rank: '8'\n", 3, "must be a whole number"),
    ("truth for a number", b"format: 1\ntraining:\n  max_rank: true\n", 3, "must be a whole number"),
    ("a broken rank", b"format: 1\ntraining:\n  max_rank: 8.5\n", 3, "must be a whole number"),
    ("a number in octal", b"format: 1\ntraining:\n  max_rank: 010\n", 3, "must be a whole number"),
    ("a number in hexadecimal", b"format: 1\ntraining:\n  max_rank: 0x10\n", 3, "must be a whole number"),
    ("a time of day", b"format: 1\ntraining:\n  max_rank: 1:30\n", 3, "must be a whole number"),
    ("digits without end", b"format: 1\ntraining:\n  max_rank: " + b"9" * 5000 + b"\n", 3, "must be finite"),
    ("a rank out of range", b"format: 1\ntraining:\n  max_rank: 257\n", 3, "at most 256"),
    ("a list for a number", b"format: 1\ntraining:\n  max_rank: [8]\n", 3, "must be a whole number"),
    ("a mapping for a list", b"format: 1\ntraining:\n  methods: {lora: 1}\n", 3, "methods"),
    ("a word for a list", b"format: 1\ntraining:\n  methods: lora\n", 3, "methods"),
    ("an empty list", b"format: 1\ntraining:\n  base_models: []\n", 3, "at least 1"),
    ("an unknown method", b"format: 1\ntraining:\n  methods:\n    - lora\n    - lroa\n", 5, "training.methods.1"),
    ("a path for a base model", b"format: 1\ntraining:\n  base_models: [../../etc/passwd]\n", 3, "base_models.0"),
    ("a rank that no server takes", SERVERS + b"    vllm:\n      max_lora_rank: 12\n", 5, "1, 8, 16"),
    ("not a number", EVALUATIONS + b"    - measure: loss\n      at_most: .nan\n", 5, "finite"),
    ("infinity", b"format: 1\nretention:\n  checkpoint_days: -.Inf\n", 3, "finite"),
    ("a number beyond doubles", b"format: 1\nretention:\n  checkpoint_days: 1e400\n", 3, "finite"),
    ("a negative margin", EVALUATIONS + b"    - measure: loss\n      better_than_base_by: -0.1\n", 5, "at least 0"),
    ("a negative tolerance", EVALUATIONS + b"    - measure: loss\n" + BOTH.replace(b"1", b"-1"), 5, "at least 0"),
    ("a share above one", EVALUATIONS + b"    - measure: accuracy\n      at_least: 80\n", 5, "at most 1"),
    ("a loss at least", EVALUATIONS + b"    - measure: accuracy\n    - {measure: loss, at_least: 1}\n", 5, "`at_most`"),
    ("an accuracy at most", EVALUATIONS + b"    - {measure: accuracy, at_most: 1}\n", 4, "takes `at_least`"),
    ("better and worse at once", EVALUATIONS + b"    - measure: loss\n" + BOTH, 4, "allows worse"),
    ("an unknown measure", EVALUATIONS + b"    - measure: vibes\n", 4, "measure"),
    ("nobody to approve", b"format: 1\nrelease:\n  approvals: {public: 0}\n", 3, "at least 1"),
    ("no life at all", b"format: 1\nretention:\n  checkpoint_days: 0\n", 3, "greater than 0"),
    ("a key without a value", b"format: 1\ntraining:\n  max_rank:\nrelease: {}\n", 3, "A value is missing"),
    ("nothing by name", b"format: 1\ntraining: null\n", 2, "A value is missing"),
    ("nothing by a sign", b"format: 1\ntraining: ~\n", 2, "A value is missing"),
    ("two documents", b"format: 1\n---\nformat: 1\n", 2, "A second document"),
    ("a document after the end", b"format: 1\n...\n---\ntraining: {}\n", 3, "A second document"),
    ("a list", b"- format: 1\n", 1, "A policy is a mapping"),
    ("a word", b"format\n", 1, "A policy is a mapping"),
    ("nothing", b"", 1, "The text is empty"),
    ("comments alone", b"# to do\n", 1, "The text is empty"),
    ("an empty document", b"---\n", 2, "A value is missing"),
    ("no UTF-8", b"format: 1\n# \xff\n", 2, "not valid UTF-8"),
    ("UTF-16", "format: 1\n".encode("utf-16"), 1, "not valid UTF-8"),
    ("half a pair, encoded", b"format: 1\n# \xed\xa0\x80\n", 2, "not valid UTF-8"),
    ("a byte order mark", b"\xef\xbb\xbfformat: 1\n", 1, "byte order mark"),
    ("a NUL", b"format: 1\n# \x00\n", 2, "a character that YAML does not allow"),
    ("an escape sequence", b"format: 1\n# \x1b[2J\n", 2, "a character that YAML does not allow"),
    ("a NUL, escaped", b'format: 1\ntraining:\n  base_models: ["a\\0"]\n', 3, "control character"),
    ("half a pair, escaped", b'format: 1\ntraining:\n  base_models: ["\\ud800"]\n', 3, "control character"),
    ("a character beyond all", b'format: 1\ntraining:\n  base_models: ["\\U00110000"]\n', 3, "does not exist"),
    ("a character beyond all, as a key", b'format: 1\n"\\UFFFFFFFF": 1\n', 2, "does not exist"),
    ("a tab", b"format: 1\ntraining:\n\tmax_rank: 8\n", 3, "This is not valid YAML"),
    ("a bracket left open", b"format: 1\ntraining: {max_rank: 8\n", 3, "This is not valid YAML"),
    ("a quote left open", b"format: 1\ntraining: {max_rank: '8}\n", 3, "This is not valid YAML"),
    ("a bad indent", b"format: 1\n training: {}\n", 2, "This is not valid YAML"),
    ("too deep a list", b"format: 1\ntraining: " + b"[" * 100 + b"]" * 100 + b"\n", 2, "deeper than 8"),
    ("depth without end", b"format: 1\ntraining: " + b"[" * 60_000, 2, "This is nested deeper"),
    ("depth in blocks", b"format: 1\n" + b"".join(b" " * n + b"a:\n" for n in range(20)), 10, "nested deeper"),
    ("too many items", b"format: 1\ntraining:\n  methods:\n" + b"  - lora\n" * MAX_NODES, 2000, "more than 2000"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "line", "words"), [row[1:] for row in HOSTILE], ids=[row[0] for row in HOSTILE])
def test_a_hostile_policy_is_refused_with_its_line(content: bytes, line: int, words: str) -> None:
    with pytest.raises(InvalidPolicy) as refused:
        parse(content)
    assert (refused.value.code, refused.value.status) == ("invalid_policy", 400)
    assert refused.value.param == f"policy:{line}", refused.value.message
    assert refused.value.message.startswith(f"Line {line}: ")
    assert words in refused.value.message


def test_a_policy_that_is_too_large_is_refused_unread() -> None:
    largest = b"format: 1\n#" + b"x" * (MAX_BYTES - 12) + b"\n"
    assert len(largest) == MAX_BYTES
    assert parse(largest) == PolicyDocument(format=1)
    with pytest.raises(InvalidPolicy, match="65536 bytes at most") as refused:
        parse(largest + b"\n")
    assert refused.value.param == "policy"


def test_every_finding_is_told_by_line_and_no_content_is() -> None:
    content = b"format: 1\nretention:\n  checkpoint_days: secret\ntraining:\n  max_rank: 0\n  methods: [lora, secret]\n"
    with pytest.raises(InvalidPolicy) as refused:
        parse(content)
    details = refused.value.details
    assert [each["param"] for each in details] == ["policy:3", "policy:5", "policy:6"]
    assert {each["code"] for each in details} == {"invalid_policy"}
    assert "secret" not in str(details)


def test_a_whole_policy_says_what_it_says() -> None:
    document = parse(WHOLE)
    assert document.training.base_models == ("smollm2-135m", "qwen3-0.6b")
    assert document.training.data_classes == (DataClass.PUBLIC, DataClass.INTERNAL, DataClass.CONFIDENTIAL)
    assert document.training.methods == (MethodName.LORA, MethodName.RSLORA)
    assert document.training.inits == (LoraInit.KAIMING, LoraInit.EVA)
    first, second = document.release.evaluations
    assert (first.measure, first.min_rows, first.at_least, first.better_than_base_by) == (
        Measure.ACCURACY,
        200,
        0.8,
        0.05,
    )
    assert (first.worse_than_production_by_at_most, first.better_than_production_by) == (0.01, None)
    assert (second.measure, second.file, second.at_most, second.better_than_production_by) == (
        Measure.LOSS,
        None,
        1.5,
        0,
    )
    assert document.release.servable_by.vllm is not None
    assert document.release.servable_by.vllm.max_lora_rank == 64
    assert (document.release.approvals.internal, document.release.approvals.restricted) == (None, 3)
    assert document.retention.checkpoint_days == 14


def test_words_mean_what_they_say() -> None:
    # In YAML 1.1 the first is false, and the second 90 minutes.
    names = parse(b"format: 1\ntraining:\n  base_models: [no, '1:30', \"a.b\", 7b]\n".replace(b"'1:30'", b"on"))
    assert names.training.base_models == ("no", "on", "a.b", "7b")
    windows = parse(b"format: 1\r\ntraining:\r\n  max_rank: 8\r\n")
    assert windows.training.max_rank == 8


# --- narrowing --------------------------------------------------------------------------------------------------------

ABOVE = parse(WHOLE)
WIDER = [
    (b"training:\n  base_models: [smollm2-135m, other]\n", "training.base_models allows more"),
    (b"training:\n  data_classes: [restricted]\n", "training.data_classes allows more"),
    (b"training:\n  methods: [dora]\n", "training.methods allows more"),
    (b"training:\n  inits: [kaiming, gaussian]\n", "training.inits allows more"),
    (b"training:\n  max_rank: 65\n", "training.max_rank is more than"),
    (b"release:\n  approvals: {restricted: 2}\n", "release.approvals.restricted is less than"),
    (b"release:\n  approvals: {confidential: 1}\n", "release.approvals.confidential is less than"),
    (b"retention:\n  checkpoint_days: 14.5\n", "retention.checkpoint_days is more than"),
]
NARROWER = [
    b"training:\n  base_models: [smollm2-135m]\n  data_classes: [public]\n  methods: [lora]\n  inits: [eva]\n",
    b"training:\n  max_rank: 64\n",
    b"release:\n  approvals: {public: 5, restricted: 3}\n",
    b"release:\n  evaluations: [{measure: token_accuracy, at_least: 0}]\n  servable_by: {vllm: {}}\n",
    b"retention:\n  checkpoint_days: 0.5\n",
    b"",
]


@pytest.mark.parametrize(("rules", "words"), WIDER, ids=[words for _, words in WIDER])
def test_a_department_cannot_allow_what_the_organisation_does_not(rules: bytes, words: str) -> None:
    content = b"format: 1\n" + rules
    with pytest.raises(PolicyWidens) as refused:
        check_narrows(content, ceiling(ABOVE, checkpoint_days=30), whose="the organisation's")
    assert (refused.value.code, refused.value.param) == ("policy_widens", "policy:3")
    assert words in refused.value.message


@pytest.mark.parametrize("rules", NARROWER)
def test_a_department_may_narrow(rules: bytes) -> None:
    check_narrows(b"format: 1\n" + rules, ceiling(ABOVE, checkpoint_days=30), whose="the organisation's")


def test_every_line_that_widens_is_told() -> None:
    content = b"format: 1\ntraining:\n  max_rank: 256\n  methods: [dora]\nretention:\n  checkpoint_days: 90\n"
    with pytest.raises(PolicyWidens) as refused:
        check_narrows(content, ceiling(ABOVE, checkpoint_days=30), whose="the organisation's")
    assert [each["param"] for each in refused.value.details] == ["policy:3", "policy:4", "policy:6"]


def test_without_a_policy_above_the_installations_own_limits_hold() -> None:
    above = ceiling(None, checkpoint_days=30)
    check_narrows(b"format: 1\ntraining: {max_rank: 256, methods: [dora]}\n", above, whose="the installation's")
    for rules in (b"retention: {checkpoint_days: 31}", b"release: {approvals: {restricted: 1}}"):
        with pytest.raises(PolicyWidens):
            check_narrows(b"format: 1\n" + rules, above, whose="the installation's")


# --- in force ---------------------------------------------------------------------------------------------------------


def version(scope: Scope, content: bytes, number: int = 1) -> PolicyVersion:
    return PolicyVersion(scope, number, digest_of(content), parse(content))


ORGANISATION = version(Scope.ORGANISATION, b"format: 1\nrelease: {approvals: {internal: 2}}\n", 3)
DEPARTMENT = version(
    Scope.DEPARTMENT, b"format: 1\nrelease: {approvals: {internal: 3}}\nretention: {checkpoint_days: 2}\n"
)


def test_the_most_people_that_any_document_asks_for_have_to_approve() -> None:
    assert [Policy().required_approvals(each) for each in DataClass] == [1, 1, 1, 2]
    assert [Policy((ORGANISATION,)).required_approvals(each) for each in DataClass] == [1, 2, 1, 2]
    assert [Policy((ORGANISATION, DEPARTMENT)).required_approvals(each) for each in DataClass] == [1, 3, 1, 2]


def test_the_shortest_life_that_any_document_asks_for_holds() -> None:
    assert Policy((ORGANISATION,)).checkpoint_days(30) == 30
    assert Policy((ORGANISATION, DEPARTMENT)).checkpoint_days(30) == 2
    # The installation's setting was lowered since.
    assert Policy((DEPARTMENT,)).checkpoint_days(1) == 1


def test_the_digest_is_that_of_both_documents_in_their_order() -> None:
    assert Policy().digest is None
    lines = f"organisation 3 {ORGANISATION.digest}\ndepartment 1 {DEPARTMENT.digest}\n"
    both = Policy((ORGANISATION, DEPARTMENT))
    assert both.digest == digest_of(lines.encode())
    tried = PolicyVersion(Scope.ORGANISATION, None, DEPARTMENT.digest, DEPARTMENT.document)
    assert both.replacing(tried).documents == (tried, DEPARTMENT)
    assert Policy((DEPARTMENT,)).replacing(tried).documents == (tried, DEPARTMENT)


# --- what changed -----------------------------------------------------------------------------------------------------


def test_a_diff_tells_rules_and_no_comments() -> None:
    before = (
        b"format: 1\ntraining: {max_rank: 8, methods: [lora]}\nrelease: {evaluations: [{measure: loss, at_most: 2}]}\n"
    )
    after = (
        b"# anew\nformat: 1\nrelease:\n  evaluations: [{measure: loss, at_most: 1, better_than_base_by: 0}]\n"
        b"training: {methods: [lora]}\n"
    )
    assert changes(parse(before), parse(after)) == [
        Change("release.evaluations[0].at_most", "2.0", "1.0"),
        Change("release.evaluations[0].better_than_base_by", None, "0.0"),
        Change("training.max_rank", "8", None),
    ]
    assert changes(parse(before), parse(before + b"# only a word\n")) == []
    assert Change("training.max_rank", None, "8") in changes(None, parse(before))
    shown = text_diff("a: 1\nb: 2\n", "a: 1\nb: 3\n", names=("one", "two"))
    assert shown == "--- one\n+++ two\n@@ -1,2 +1,2 @@\n a: 1\n-b: 2\n+b: 3\n"


# --- neighbours -------------------------------------------------------------------------------------------------------

PIECES = (
    b"&a ", b"*a", b"!!python/name:os.system ", b"!<x> ", b"---\n", b"...\n", b"? ", b": ", b"- ", b"|9\n", b">-\n",
    b'"', b"'", b'"\\U00110000"', b'"\\uD800"', b"{", b"}", b"[", b"]", b",", b"#", b"%YAML 1.2\n", b"\t", b"\r",
    b"\x00", b"\xff", b"\xc2\x85", b"\xe2\x80\xa8", b".nan", b"1e999", b"0x1", b"<<: ", b"`", b"@", b"~", b"9" * 30,
    b"\xef\xbb\xbf", b"\n\n  ",
)  # fmt: skip


def line_refused(content: bytes) -> int | None:
    try:
        parse(content)
    except InvalidPolicy as refusal:
        return int(str(refusal.param).removeprefix("policy:"))
    return None


def test_of_damaged_text_comes_a_refusal_with_a_line_or_a_policy() -> None:
    damage = random.Random(20261125)
    lines = []
    for _ in range(500):
        text = bytearray(WHOLE)
        for _ in range(damage.randint(1, 3)):
            at = damage.randrange(len(text))
            text[at : at + damage.choice((0, 1, 3))] = damage.choice(PIECES)
        lines.append((line_refused(bytes(text)), len(text.decode(errors="replace").splitlines())))
    refused = [(line, last) for line, last in lines if line is not None]
    assert 250 < len(refused) < 500
    assert all(1 <= line <= last + 1 for line, last in refused)
