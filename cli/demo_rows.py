"""The rows of the demonstration's two departments, built from installed packages and the same for the same seed.

clinical-coding: a diagnosis of ICD-10-CM -> its chapter (simple_icd_10_cm). Siblings below one 3-character category
stay in one split. Not medical advice.
smart-home: a spoken request -> the intent and its slots as JSON (home_assistant_intents). What one template says
stays in one split, so that evaluation meets templates it has never seen.
"""

import importlib.resources
import itertools
import json
import re
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from cli.sentence_templates import Part, SlotOf, Speaker, Spoken, parse

with warnings.catch_warnings():
    # It reads its data through an importlib.resources function that Python 3.11 calls deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    import simple_icd_10_cm

# Two prompts that share so many of their words say the same thing.
NEAR_DUPLICATE_JACCARD = 0.7


@dataclass(frozen=True)
class Example:
    """One row before it is JSON. Rows of a group never stand in two splits."""

    group: str
    prompt: str
    answer: str
    label: str


@dataclass(frozen=True)
class DepartmentRows:
    """A department's three files. `choices` are what an evaluation compares by likelihood."""

    department: str
    system: str
    choices: tuple[str, ...]
    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    evaluation: tuple[Example, ...]

    def jsonl(self, split: str) -> bytes:
        """One split as the bytes of a file to upload."""
        with_choices = {"choices": list(self.choices)} if split == "evaluation" else {}
        examples: tuple[Example, ...] = getattr(self, split)
        rows = ({"messages": self._messages(example)} | with_choices for example in examples)
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()

    def _messages(self, example: Example) -> list[dict[str, str]]:
        return [
            {"role": "system", "content": self.system},
            {"role": "user", "content": example.prompt},
            {"role": "assistant", "content": example.answer},
        ]


@dataclass(frozen=True)
class SplitSizes:
    """Rows of each label in each split; a held-out group gives at most `of_a_held_out_group`."""

    train: int
    validation: int
    evaluation: int
    of_a_held_out_group: int


# --- clinical-coding --------------------------------------------------------------------------------------------------

CHAPTERS = {
    "1": "infectious",
    "2": "neoplasm",
    "4": "endocrine",
    "5": "mental",
    "6": "nervous",
    "7": "eye",
    "9": "circulatory",
    "10": "respiratory",
    "11": "digestive",
    "13": "musculoskeletal",
}
MAX_DIAGNOSIS_WORDS = 10
# `A00` has three characters and `A00.1` five: deeper codes only add the side of the body or the encounter.
MAX_CODE_CHARACTERS = 5
CODING_SIZES = SplitSizes(train=120, validation=6, evaluation=10, of_a_held_out_group=1)


def clinical_coding(seed: int) -> DepartmentRows:
    """Diagnoses of ten chapters, the same number of each in evaluation."""
    train, validation, evaluation = split(_diagnoses(), CODING_SIZES, seed)
    return DepartmentRows(
        department="clinical-coding",
        system="ICD-10 chapter?",
        choices=tuple(sorted(CHAPTERS.values())),
        train=train,
        validation=validation,
        evaluation=evaluation,
    )


def _diagnoses() -> list[Example]:
    found = []
    for code in simple_icd_10_cm.get_all_codes(with_dots=True):
        is_disease = simple_icd_10_cm.is_category(code) or simple_icd_10_cm.is_subcategory(code)
        if not is_disease or len(code) > MAX_CODE_CHARACTERS:
            continue
        label = CHAPTERS.get(simple_icd_10_cm.get_ancestors(code)[-1])
        description = simple_icd_10_cm.get_description(code)
        if label and len(description.split()) <= MAX_DIAGNOSIS_WORDS:
            found.append(Example(group=code[:3], prompt=description, answer=label, label=label))
    return found


# --- smart-home -------------------------------------------------------------------------------------------------------

INTENTS = (
    "HassClimateSetTemperature",
    "HassFanSetSpeed",
    "HassGetState",
    "HassIncreaseTimer",
    "HassLightSet",
    "HassMediaPrevious",
    "HassSetVolume",
    "HassTimerStatus",
    "HassTurnOff",
    "HassTurnOn",
)
# What a home's owner names: the package leaves these lists to the home.
HOME = {
    "area": ("kitchen", "bedroom", "living room", "bathroom", "garage", "office", "hallway", "attic", "nursery"),
    "floor": ("first", "ground", "upper", "lower"),
    "timer_name": ("pasta", "laundry", "pizza", "tea", "homework"),
}
# A template with a {name} says which domains the named thing may be of.
NAMES = {
    "climate": ("thermostat", "heat pump", "boiler"),
    "cover": ("roller blind", "garage door", "patio shutter"),
    "fan": ("ceiling fan", "tower fan", "extractor"),
    "light": ("desk lamp", "reading light", "fairy lights", "chandelier"),
    "lock": ("front door", "back gate"),
    "media_player": ("radio", "soundbar", "record player"),
    "switch": ("coffee machine", "kettle", "heater"),
}
MAX_SPOKEN_NUMBER = 60
SENTENCES_OF_A_TEMPLATE = 40
HOME_SIZES = SplitSizes(train=110, validation=6, evaluation=10, of_a_held_out_group=4)


def smart_home(seed: int) -> DepartmentRows:
    """Requests of ten intents; the answer is JSON, and evaluation compares its beginning, up to the intent."""
    train, validation, evaluation = split(_requests(Random(seed)), HOME_SIZES, seed)  # noqa: S311 - reproducible
    return DepartmentRows(
        department="smart-home",
        system="JSON intent?",
        # With the closing quote: no intent is then the beginning of another.
        choices=tuple(f'{{"intent": "{intent}"' for intent in INTENTS),
        train=train,
        validation=validation,
        evaluation=evaluation,
    )


def _requests(random: Random) -> list[Example]:
    published = json.loads(importlib.resources.files("home_assistant_intents").joinpath("data/en.json").read_bytes())
    rules = {name: parse(template) for name, template in published["expansion_rules"].items()}
    lists = _spoken_lists(published["lists"], rules, random)
    found: list[Example] = []
    for intent in INTENTS:
        for entry in published["intents"][intent]["data"]:
            speaker = Speaker(rules, lists | _names(entry.get("requires_context", {})), random)
            for template in entry["sentences"]:
                found += _say_often(speaker, template, intent, entry.get("slots", {}))
    return _unambiguous(found)


def _names(requires: Mapping[str, Any]) -> dict[str, list[Spoken]]:
    names = [name for domain in requires.get("domain", ()) for name in NAMES.get(domain, ())]
    return {"name": [Spoken(name, name) for name in names]} if names else {}


def _say_often(speaker: Speaker, template: str, intent: str, implied: Mapping[str, str]) -> Iterable[Example]:
    part = parse(template)
    # Timers named by how long they were set for make two durations in one sentence: too long for a short demonstration.
    if ":start_" in template or not _lists_of(part, speaker.rules) <= speaker.lists.keys():
        return
    for _ in range(SENTENCES_OF_A_TEMPLATE):
        prompt = speaker.say(part)
        answer = json.dumps({"intent": intent} | dict(sorted(speaker.slots.items())) | dict(implied))
        yield Example(group=f"{intent} {template}", prompt=prompt, answer=answer, label=intent)


def _lists_of(part: Part, rules: Mapping[str, Part]) -> set[str]:
    if isinstance(part, SlotOf):
        return {part.list_name}
    if name := getattr(part, "name", None):
        return _lists_of(rules[name], rules)
    return {name for inner in getattr(part, "parts", ()) for name in _lists_of(inner, rules)}


def _spoken_lists(published: Mapping[str, Any], rules: Mapping[str, Part], random: Random) -> dict[str, list[Spoken]]:
    lists = {name: [Spoken(value, value) for value in values] for name, values in HOME.items()}
    speaker = Speaker(rules, {}, random)
    for name, content in published.items():
        if "values" in content:
            lists[name] = [
                Spoken(speaker.say(parse(value["in"])), value["out"]) for value in content["values"] if "in" in value
            ]
        elif "range" in content:
            first, last = max(1, content["range"]["from"]), min(MAX_SPOKEN_NUMBER, content["range"]["to"])
            lists[name] = [Spoken(str(number), number) for number in range(first, last + 1)]
    return {name: values for name, values in lists.items() if values}


def _unambiguous(examples: list[Example]) -> list[Example]:
    """Leave out what is said for two intents: nobody could learn it."""
    labels = defaultdict(set)
    for example in examples:
        labels[normalised(example.prompt)].add(example.label)
    return [example for example in examples if len(labels[normalised(example.prompt)]) == 1]


# --- splits -----------------------------------------------------------------------------------------------------------

Split = tuple[Example, ...]


def split(examples: list[Example], sizes: SplitSizes, seed: int) -> tuple[Split, Split, Split]:
    """Train, validation and evaluation: no group in two of them, no near-duplicate of a held-out prompt in train."""
    random = Random(seed)  # noqa: S311 - reproducible
    train: list[Example] = []
    validation: list[Example] = []
    evaluation: list[Example] = []
    for label in sorted({example.label for example in examples}):
        groups = _shuffled_groups((example for example in _distinct(examples) if example.label == label), random)
        evaluation += _hold_out(groups, sizes.evaluation, of_a_group=sizes.of_a_held_out_group)
        validation += _hold_out(groups, sizes.validation, of_a_group=sizes.of_a_held_out_group)
        # Some are near-duplicates of what is held out, so more are taken than are kept.
        train += _in_turn(groups)[: 2 * sizes.train]
    kept = _without_near_duplicates(train, validation + evaluation)
    train = [example for label in sorted({e.label for e in kept}) for example in _first(kept, label, sizes.train)]
    for examples_of_split in (train, validation, evaluation):
        random.shuffle(examples_of_split)
    return tuple(train), tuple(validation), tuple(evaluation)


def _distinct(examples: list[Example]) -> Iterable[Example]:
    return {normalised(example.prompt): example for example in examples}.values()


def _shuffled_groups(examples: Iterable[Example], random: Random) -> list[list[Example]]:
    by_group = defaultdict(list)
    for example in examples:
        by_group[example.group].append(example)
    groups = list(by_group.values())
    for group in groups:
        random.shuffle(group)
    random.shuffle(groups)
    return groups


def _hold_out(groups: list[list[Example]], count: int, *, of_a_group: int) -> list[Example]:
    """Use up whole groups until `count` rows are found; the rest of a used group is dropped."""
    taken: list[Example] = []
    while groups and len(taken) < count:
        taken += groups.pop()[:of_a_group]
    return taken[:count]


def _in_turn(groups: list[list[Example]]) -> list[Example]:
    """One row of each group, then the next one of each, so that a beginning shows as many groups as it can."""
    rounds = itertools.zip_longest(*groups)
    return [example for one_round in rounds for example in one_round if example is not None]


def _first(examples: list[Example], label: str, count: int) -> list[Example]:
    return [example for example in examples if example.label == label][:count]


def _without_near_duplicates(examples: list[Example], held_out: list[Example]) -> list[Example]:
    words_held_out = [words(example.prompt) for example in held_out]
    return [
        example
        for example in examples
        if all(jaccard(words(example.prompt), other) < NEAR_DUPLICATE_JACCARD for other in words_held_out)
    ]


def normalised(prompt: str) -> str:
    """What is left when case, punctuation and spacing do not count."""
    return " ".join(re.findall(r"[a-z0-9]+", prompt.lower()))


def words(prompt: str) -> frozenset[str]:
    """The different words of a prompt."""
    return frozenset(normalised(prompt).split())


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """Shared words over all words."""
    return len(one & other) / len(one | other)
