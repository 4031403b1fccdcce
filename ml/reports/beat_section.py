"""The report's sections on beats, one a corpus that was scored for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ml.artifacts import MANIFEST_NAME, DataLayout, read_json
from ml.reports.beat_figure import beat_strip
from ml.reports.sections import Plot
from ml.reports.svg import figure_svg
from ml.retrieval.score_files import read_scores

if TYPE_CHECKING:
    from ml.beats.examples import BeatExample

EVALUATION, PAIRED = "beats", "beats-paired"
COLUMNS = {
    "f_measure": "F",
    "cmlt": "CMLt",
    "amlt": "AMLt",
    "peak_f_measure": "F of peaks",
    "average_precision": "Frame precision",
}
"""Metrics that the table shows."""
_DRAWN = ("untrained", "onset curve")
"""Rows of the figure below the best trained encoder."""
_BARE = ("untrained", "log-mel", "onset curve", "annotation")
_FPS = 50.0


@dataclass(frozen=True, kw_only=True)
class BeatSection:
    """What the template shows of one corpus."""

    title: str
    n_tracks: int
    columns: Mapping[str, str]
    models: Mapping[str, Mapping[str, Mapping[str, Any]]]
    """Model → metric → row."""
    differences: Mapping[str, Mapping[str, Mapping[str, Any]]]
    """``A minus B`` → metric → row."""
    chance: Mapping[str, float]
    plots: Sequence[Plot]


def beat_inputs(layout: DataLayout) -> dict[str, str]:
    """Fingerprints of the scores that the sections are made from, by corpus."""
    found = sorted(layout.scores(EVALUATION, "corpus").parent.glob(f"*/{MANIFEST_NAME}"))
    return {path.parent.name: read_json(path)["fingerprint"] for path in found}


def beat_sections(layout: DataLayout) -> list[BeatSection]:
    """A section for each corpus that was scored."""
    return [_section(layout, corpus, place) for place, corpus in enumerate(beat_inputs(layout))]


def _section(layout: DataLayout, corpus: str, place: int) -> BeatSection:
    from ml.beats.examples import read_examples

    scores = read_scores(layout, evaluation=EVALUATION, corpus=corpus)
    models = _by_model(scores)
    best = _best(models)
    drawn = [name for name in (best, *_DRAWN) if name in models]
    examples = read_examples(layout.scores(EVALUATION, corpus))
    return BeatSection(
        title=corpus,
        n_tracks=scores[0]["n_queries"],
        columns=COLUMNS,
        models=models,
        differences=_by_model(read_scores(layout, evaluation=PAIRED, corpus=corpus)),
        chance={row["metric"]: row["chance"] for row in scores},
        plots=[
            _plot(example, list(dict.fromkeys(drawn)), f"beats{place}-{number}")
            for number, example in enumerate(examples)
        ],
    )


def _best(models: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """The trained encoder with the highest F-measure, or the first row where there is none."""
    trained = [name for name in models if name not in _BARE] or list(models)[:1]
    return max(trained, key=lambda name: models[name]["f_measure"]["value"])


def _by_model(
    rows: Sequence[Mapping[str, Any]],
) -> dict[str, dict[str, Mapping[str, Any]]]:
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["model"], {})[row["metric"]] = row
    return found


def _plot(example: BeatExample, models: Sequence[str], name: str) -> Plot:
    counts = ", ".join(f"{model} {len(example.beats[model])}" for model in models)
    return Plot(
        title=f"Beats of {example.track_id}",
        svg=figure_svg(beat_strip(example, models, fps=_FPS), name),
        alt=f"Log-mel and beat activations of {example.track_id} from {example.start_s:.0f} s; "
        f"{len(example.reference)} annotated beats; decoded: {counts}.",
        caption="Dashed: annotated beats. Triangles: decoded beats, hollow where none is "
        "annotated within 70 ms.",
    )
