"""Checkpoints: what was signed is what is read, and nothing else is taken for one."""

import gzip
import json
from dataclasses import replace
from hashlib import sha256
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from evidence import seals
from evidence.checkpoints import (
    Checkpoint,
    CheckpointInvalid,
    Head,
    Signed,
    open_all,
    read_segment,
    read_statement,
    sign,
)
from evidence.events import Leaf
from evidence.seals import NOTHING_BEFORE, Snapshot

CHAIN = UUID(int=7)
KEY = Ed25519PrivateKey.generate()
FIRST = Checkpoint(1, 1_700_000_000_000_000, "acme", bytes(32), {CHAIN: Head(2, b"\1" * 32, 30, 41)}, "0" * 64)


def _second() -> Checkpoint:
    return replace(FIRST, number=2, previous=sha256(FIRST.statement()).digest())


def test_what_is_signed_is_what_is_read() -> None:
    lines = [sign(each, KEY).line() for each in (FIRST, _second())]
    assert open_all(lines, KEY.public_key()) == [FIRST, _second()]
    assert open_all([lines[0], lines[0], lines[1]], KEY.public_key()) == [FIRST, _second()]
    assert open_all(lines[1:], KEY.public_key()) == [_second()]


def test_a_statement_from_before_manifests_were_stated_is_read_as_it_was_signed() -> None:
    assert b"archives" not in FIRST.statement()
    assert read_statement(FIRST.statement()) == FIRST
    for archives in ({}, {"audit_events_2024_01": "0" * 64}):
        stated = replace(FIRST, archives=archives)
        assert read_statement(stated.statement()) == stated


@pytest.mark.parametrize(
    "lines",
    [
        [sign(FIRST, Ed25519PrivateKey.generate()).line()],
        [replace(sign(FIRST, KEY), statement=_second().statement()).line()],
        [sign(FIRST, KEY).line(), sign(replace(FIRST, number=3), KEY).line()],
        [sign(FIRST, KEY).line(), sign(replace(_second(), previous=bytes(32)), KEY).line()],
        [sign(_second(), KEY).line(), sign(FIRST, KEY).line()],
        ["{}"],
        ["nothing"],
        [Signed(b"{}", KEY.sign(b"{}")).line()],
    ],
    ids=[
        "another key",
        "another statement",
        "one is left out",
        "another past",
        "backwards",
        "empty",
        "no JSON",
        "none",
    ],
)
def test_anything_else_is_refused(lines: list[str]) -> None:
    with pytest.raises(CheckpointInvalid):
        open_all(lines, KEY.public_key())


def test_a_segment_is_the_one_that_was_signed_for() -> None:
    seal = seals.make(
        CHAIN, [Leaf(3, 9, 5, b"\2" * 32)], after=(0, NOTHING_BEFORE), sealed_at=6, xid=10,
        snapshot=Snapshot(10, 10, frozenset()),
    )  # fmt: skip
    line = json.dumps(seals.as_json(seal)).encode() + b"\n"
    checkpoint = replace(FIRST, segment_sha256=sha256(line).hexdigest())
    assert read_segment(gzip.compress(line), checkpoint) == [seal]
    for content in (gzip.compress(line + line), b"no gzip", gzip.compress(b"")):
        with pytest.raises(CheckpointInvalid):
            read_segment(content, checkpoint)
