from domain.comparisons import Change, Difference, FileChange, differences, file_changes, measurements
from domain.digests import Manifest, ManifestFile, digest_of


def manifest(**contents: bytes) -> Manifest:
    return Manifest.of(
        ManifestFile(path=path, bytes=len(content), digest=digest_of(content)) for path, content in contents.items()
    )


def test_only_what_is_different_is_told_by_its_dotted_name() -> None:
    before = {"seed": 1, "method": {"rank": 8, "patterns": {}}, "layers": ["a", "b"], "gone": None}
    after = {"seed": 1, "method": {"rank": 16, "patterns": {"q": 4}}, "layers": ["b", "a"], "new": 0}
    assert differences(before, after) == (
        Difference("layers", ["a", "b"], ["b", "a"]),
        Difference("method.patterns", {}, None),
        Difference("method.patterns.q", None, 4),
        Difference("method.rank", 8, 16),
        Difference("new", None, 0),
    )
    assert differences(before, before) == ()


def test_every_number_of_either_is_a_measurement() -> None:
    before = {"loss": 2.0, "steps": 3, "device": "cpu", "fast": True}
    after = {"loss": 1.5, "steps": 3, "evaluation": {"accuracy": 0.5}}
    assert measurements(before, after) == (
        Difference("evaluation.accuracy", None, 0.5),
        Difference("loss", 2.0, 1.5),
        Difference("steps", 3, 3),
    )


def test_files_are_told_apart_by_path_and_digest() -> None:
    one, other = manifest(a=b"1", b=b"2", c=b"3"), manifest(a=b"1", b=b"!", d=b"4")
    assert file_changes(one, other) == (
        FileChange("a", Change.SAME, digest_of(b"1"), digest_of(b"1")),
        FileChange("b", Change.CHANGED, digest_of(b"2"), digest_of(b"!")),
        FileChange("c", Change.REMOVED, digest_of(b"3"), None),
        FileChange("d", Change.ADDED, None, digest_of(b"4")),
    )
