from random import Random

import pytest

from cli.sentence_templates import Speaker, Spoken, parse

RANDOM_SEED = 1
AREAS = {"area": [Spoken("living room", "living_room")], "level": [Spoken("max", 100)]}


def everything_said(template: str) -> set[str]:
    speaker = Speaker({"the": parse("(the|my)")}, AREAS, Random(RANDOM_SEED))
    return {speaker.say(parse(template)) for _ in range(300)}


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("turn on", {"turn on"}),
        ("turn [it] on", {"turn on", "turn it on"}),
        ("(on|off)", {"on", "off"}),
        ("<the> lamp[s]", {"the lamp", "the lamps", "my lamp", "my lamps"}),
        ("(a;b;c)", {"a b c", "a c b", "b a c", "b c a", "c a b", "c b a"}),
        ("five( |-)hour[s]", {"five hour", "five hours", "five-hour", "five-hours"}),
        ("[[very] bright]", {"", "bright", "very bright"}),
        ("in {area}", {"in living room"}),
    ],
)
def test_a_template_says_all_of_its_sentences_and_no_other(template: str, said: set[str]) -> None:
    assert everything_said(template) == said


def test_what_was_meant_is_kept_under_the_slots_name() -> None:
    speaker = Speaker({}, AREAS, Random(RANDOM_SEED))
    assert speaker.say(parse("{area} to {level:brightness}")) == "living room to max"
    assert speaker.slots == {"area": "living_room", "brightness": 100}


@pytest.mark.parametrize("template", ["turn (on", "turn [on", "turn on)", "{area"])
def test_a_bracket_out_of_place_is_refused(template: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the text comes from two places
        parse(template)
