"""What ``stems query`` found, as a table on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ml.retrieval.candidates import Candidate


def print_candidates(found: Sequence[Candidate]) -> None:
    """Print one line a stem; the last column only where there is a mix."""
    if not found:
        print("no stem passes the filters")
        return
    has_mix = any(c.mix_start_s is not None for c in found)
    heading = ("rank", "score", "label", "corpus", "stem", "fits best at", "with mix at")
    rows: list[tuple[str, ...]] = [heading if has_mix else heading[:-1]]
    for c in found:
        cells = (str(c.rank), f"{c.score:.3f}", c.label, c.corpus, c.stem_id)
        places = (_seconds(c.best_start_s), _seconds(c.mix_start_s))
        rows.append((*cells, *(places if has_mix else places[:1])))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip())


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} s"
