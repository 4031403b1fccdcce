"""What was found instead, by instrument, and how instruments are found that training never met."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from assets_def.assets.retrieval import retrieval_scores
from assets_def.partitions import corpora
from assets_def.resources import StemsHome
from assets_def.results import materialized
from ml.retrieval import score_files


@dg.asset(
    group_name="evaluation",
    kinds={"numpy", "parquet"},
    owners=["team:music-ml"],
    partitions_def=corpora,
    deps=[retrieval_scores],
    code_version=str(score_files.FORMAT_VERSION),
)
def instrument_scores(context: dg.AssetExecutionContext, home: StemsHome) -> dg.MaterializeResult:
    """Shares of right stem, track, instrument and category (Fig. 2); recall of unknown labels."""
    from ml.corpora.labels import label_encoder_of
    from ml.reports.tracked_instruments import track_instruments
    from ml.retrieval.instrument_files import INSTRUMENTS, read_instruments
    from ml.retrieval.instruments import evaluate_instruments

    settings, name = home.settings(), context.partition_key
    layout, chosen = settings.layout, settings.evaluation
    artifact = evaluate_instruments(
        name,
        layout,
        label_encoder_of(settings),
        resamples=chosen.bootstrap_resamples,
        seed=chosen.seed,
    )
    track_instruments(layout, name, artifact, settings.tracking_uri)
    rows = read_instruments(layout, name)
    return materialized(
        artifact,
        rows=len(rows),
        table=artifact.path / INSTRUMENTS,
        metadata=instrument_metadata(score_files.read_artifact_scores(artifact), rows),
    )


def instrument_metadata(
    scores: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """A table by presence group, and Fig. 2 of the model that finds the most stems.

    Args:
        scores: of ``ml.retrieval.score_files.read_scores``, evaluation ``instruments``.
        rows: of ``ml.retrieval.instrument_files.read_instruments``.
    """
    shown: dict[str, Any] = {"presence": dg.MetadataValue.md(presence_markdown(scores))}
    found: dict[tuple[str, str], float] = {}
    for row in rows:
        key = (row["model"], row["conditioning"])
        found[key] = found.get(key, 0.0) + row["right_stem"] * row["queries"]
    if found:
        best = max(found, key=lambda key: found[key])
        plotted = [row for row in rows if (row["model"], row["conditioning"]) == best]
        picture = f"![shares](data:image/png;base64,{_plot(plotted)})"
        shown |= {"plotted": " ".join(best), "plot": dg.MetadataValue.md(picture)}
    return shown


def presence_markdown(scores: Sequence[Mapping[str, Any]]) -> str:
    """One line a model, recall@1 and mean normalised rank of each presence group, in percent."""
    from ml.retrieval.presence import PRESENCES

    metrics = [
        f"{metric}/{group}"
        for group in PRESENCES
        for metric in ("recall@1", "normalized_rank_mean")
        if any(row["metric"] == f"{metric}/{group}" for row in scores)
    ]
    found = {(row["model"], row["conditioning"], row["metric"]): row for row in scores}
    lines = ["| model | " + " | ".join(metrics) + " |", "|---" * (len(metrics) + 1) + "|"]
    for model, conditioning in dict.fromkeys(key[:2] for key in found):
        cells = [found.get((model, conditioning, metric)) for metric in metrics]
        values = " | ".join("–" if cell is None else f"{cell['value']:.1f}" for cell in cells)
        lines.append(f"| {model}, {conditioning} | {values} |")
    chance = {row["metric"]: row["chance"] for row in scores}
    lines.append("| *chance* | " + " | ".join(f"{chance[m]:.1f}" for m in metrics) + " |")
    return "\n".join(lines)


def _plot(rows: Sequence[Mapping[str, Any]]) -> str:
    from ml.reports.instrument_figures import share_bars

    png = io.BytesIO()
    share_bars(rows).savefig(png, format="png", dpi=120, facecolor="white")
    return base64.b64encode(png.getvalue()).decode()
