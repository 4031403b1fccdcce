"""Which SQL conditions of strangers reach the table: comparisons of its columns and no more.

What LanceDB takes as a condition is nearly all of its SQL: ``repeat('a', 1000000000)``, parameters
that make it panic, negations whose time doubles with each level. Here words, signs and depth are
bounded first; ``stems query --where`` and ``lancedb`` itself take everything.
"""

from __future__ import annotations

import re

from ml.serve.problems import RequestError

_KEYWORDS = frozenset(
    "and or not in like ilike between is null true false escape".split()  # noqa: SIM905
)
_FUNCTIONS = frozenset(("array_has", "lower", "upper", "length", "starts_with"))
_MOST_TOKENS, _MOST_DEPTH, _MOST_NEGATIONS = 200, 8, 8
_TOKEN = re.compile(
    r"\s*(?:(?P<text>'(?:[^']|'')*')|(?P<number>\d+(?:\.\d+)?)|(?P<word>[A-Za-z_]\w*)"
    r"|(?P<sign><>|!=|<=|>=|[=<>(),-]))\s*",
    re.ASCII,
)


def check_condition(where: str, columns: tuple[str, ...]) -> None:
    """Refuse a condition that is more than comparisons of columns.

    Args:
        where: the condition.
        columns: that it may name.

    Raises:
        RequestError: says which part, and what is expected.
    """
    at = depth = tokens = negations = 0
    while at < len(where):
        match = _TOKEN.match(where, at)
        if match is None or where.startswith("--", match.start("sign")):
            raise _refused(where, f"{where[at : at + 20].strip()!r} is not expected", columns)
        word = (match["word"] or "").lower()
        if word and word not in _KEYWORDS | _FUNCTIONS and match["word"] not in columns:
            raise _refused(where, f"{word!r} is no column, word or function", columns)
        depth += (match["sign"] == "(") - (match["sign"] == ")")
        tokens += 1
        negations += word == "not"
        if depth > _MOST_DEPTH or tokens > _MOST_TOKENS or negations > _MOST_NEGATIONS:
            raise _refused(where, "it is too long or too deep", columns)
        at = match.end()


def _refused(where: str, reason: str, columns: tuple[str, ...]) -> RequestError:
    return RequestError(
        f"the filter {where[:200]!r} is not understood ({reason}); expected an SQL condition such "
        f"as category = 'guitar' on the columns {', '.join(columns)}, with AND, OR, NOT, IN, LIKE, "
        f"ILIKE, BETWEEN, IS NULL and the functions {', '.join(sorted(_FUNCTIONS))}"
    )
