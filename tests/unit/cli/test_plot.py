import re
import xml.etree.ElementTree as ET

import pytest

from cli.course import Course
from cli.plot import smoothed, svg

SVG = "{http://www.w3.org/2000/svg}"


def drawn(title: str = "triage on smollm2", **series: dict[int, float]) -> ET.Element:
    total = max(max(points) for points in series.values())
    return ET.fromstring(svg(Course(series=series, total_steps=total), title=title, subtitle="ftjob-1"))  # noqa: S314


def places(picture: ET.Element, name: str) -> list[tuple[float, float]]:
    """The points of a series's first line, in pixels."""
    line = next(line for line in picture.iter(f"{SVG}polyline") if line.get("class") == name)
    return [(float(x), float(y)) for x, y in re.findall(r"([\d.-]+),([\d.-]+)", line.get("points", ""))]


def labels(picture: ET.Element, anchor: str) -> list[tuple[str, float]]:
    """Tick labels: those of values are anchored at their end, those of steps in their middle."""
    along = "y" if anchor == "end" else "x"
    return [
        ("".join(text.itertext()), float(text.get(along, "")))
        for text in picture.iter(f"{SVG}text")
        if text.get("text-anchor") == anchor
    ]


def test_a_point_stands_where_the_ticks_say() -> None:
    picture = drawn(train_loss={0: 4.0, 40: 3.0, 100: 1.0})
    value_at, step_at = dict(labels(picture, "end")), dict(labels(picture, "middle"))
    # A label's baseline is four pixels below the middle of its figures.
    for (x, y), (step, value) in zip(
        places(picture, "train_loss"), [("0", "4"), ("40", "3"), ("100", "1")], strict=True
    ):
        assert (x, y) == pytest.approx((step_at[step], value_at[value] - 4), abs=0.11)


def test_a_loss_that_falls_far_is_drawn_on_a_logarithmic_scale() -> None:
    (_, first), (_, second), (_, third) = places(drawn(train_loss={0: 10.0, 1: 1.0, 2: 0.1}), "train_loss")
    assert second - first == pytest.approx(third - second, abs=0.11)
    (_, first), (_, second), (_, third) = places(drawn(train_loss={0: 3.0, 1: 2.0, 2: 1.0}), "train_loss")
    assert second - first == pytest.approx(third - second, abs=0.11)


def test_speed_and_learning_rate_begin_at_zero() -> None:
    picture = drawn(train_loss={0: 1.0, 1: 1.0}, tokens_per_s={0: 990.0, 1: 1000.0}, learning_rate={0: 1e-3, 1: 1e-4})
    assert [label for label, _ in labels(picture, "end")].count("0") == 3


def test_losses_are_told_apart_by_name_and_mark_and_by_their_last_value() -> None:
    picture = drawn(train_loss={1: 2.0, 8: 1.5}, valid_loss={4: 1.75, 8: 1.625})
    shown = " ".join("".join(text.itertext()) for text in picture.iter(f"{SVG}text"))
    assert "training 1.500" in shown
    assert "validation 1.625" in shown
    marks = [circle.findtext(f"{SVG}title") for circle in picture.iter(f"{SVG}circle")]
    assert [mark for mark in marks if mark] == ["step 4: 1.7500", "step 8: 1.6250"]


@pytest.mark.parametrize("losses", [{1: 2.0}, {1: 0.0}, {1: 2.0, 2: 2.0}, {3: 1e-9, 4: 1e9}])
def test_an_odd_course_is_drawn_within_the_picture(losses: dict[int, float]) -> None:
    for x, y in places(drawn(train_loss=losses), "train_loss"):
        assert 64 <= x <= 856
        assert 104 <= y <= 356


def test_what_was_not_told_is_said_to_be() -> None:
    shown = ["".join(text.itertext()) for text in drawn(train_loss={1: 2.0}).iter(f"{SVG}text")]
    assert shown.count("not told yet") == 2


def test_a_name_is_text_and_never_markup() -> None:
    picture = drawn(title='<script>alert("1")</script>\x1b[2J', train_loss={1: 1.0})
    assert list(picture.iter(f"{SVG}script")) == []
    assert any((text.text or "").startswith("<script>") for text in picture.iter(f"{SVG}text"))


def test_the_picture_follows_the_readers_theme() -> None:
    style = drawn(train_loss={1: 1.0}).findtext(f"{SVG}style") or ""
    light, _, dark = style.partition("@media (prefers-color-scheme:dark)")
    for name in ("text", ".paper", ".train_loss", ".valid_loss", ".learning_rate", ".tokens_per_s"):
        assert f"{name}{{" in light
        assert f"{name}{{" in dark


def test_a_running_mean_does_not_lag() -> None:
    falling = [(step, 100.0 - step) for step in range(100)]
    assert [value for _, value in smoothed(falling)] == pytest.approx([value for _, value in falling])
