"""Kinds of problems: what ``stems corpus inspect`` counts at its end, with what to do.

A problem is a sentence about one stem; its kind is told by the words that all such sentences share.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

PROBLEM_KINDS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("is cut off", ("was cut off",), "copy or download it again"),
    ("is damaged", ("is damaged", "NaN or infinite"), "copy or export it again"),
    ("looks like the mix", ("looks like the mix",), "take it out: a mix is the sum of its stems"),
    ("never sounds", ("never sounds",), "export it again, or take it out"),
    ("is alone in its track", ("is the only stem",), "add the track's other stems"),
    (
        "cannot be decoded",
        ("cannot be decoded", "ended the process", "needs more memory"),
        "convert it to wav or flac",
    ),
    (
        "has a header that is wrong",
        ("its header is wrong", "lasts over"),
        "export it again",
    ),
    ("holds nothing", ("is empty", "holds no samples"), "export it again, or take it out"),
    ("has a name that is not UTF-8", ("not UTF-8",), "rename it"),
    (
        "is not there",
        ("does not exist", "is a folder", "no regular file", "cannot be read"),
        "correct the path",
    ),
)
"""Kind, words of its sentences, what to do."""


def count_problems(problems: Iterable[str | None]) -> list[tuple[str, int, str]]:
    """Count the stems of each kind of problem: kind, how many, what to do; most frequent first."""
    kinds = Counter(_kind(problem) for problem in problems if problem)
    remedies = {kind: remedy for kind, _, remedy in PROBLEM_KINDS}
    return [(kind, count, remedies.get(kind, "see above")) for kind, count in kinds.most_common()]


def _kind(problem: str) -> str:
    for kind, words, _ in PROBLEM_KINDS:
        if any(word in problem for word in words):
            return kind
    return "other"
