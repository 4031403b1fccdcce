"""How well stems are found, and the page that says so.

[instruments] What was found instead, by instrument, and how instruments are found that training
never met.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from assets_def.assets.embeddings import stem_embeddings
from assets_def.assets.training import contrastive_encoder, stem_jepa
from assets_def.resources import StemsHome, corpora
from assets_def.results import materialized, together
from ml import kinds
from ml.scores import files as score_files


@dg.asset(
    group_name="evaluation",
    kinds={"numpy", "parquet"},
    owners=["team:music-ml"],
    partitions_def=corpora,
    deps=[stem_embeddings],
    code_version=str(kinds.SCORES.format_version),
)
def retrieval_scores(context: dg.AssetExecutionContext, home: StemsHome) -> dg.MaterializeResult:
    """Recall and normalised rank of each model (Table I), with chance and intervals."""
    from assets_def.score_table import evaluation_metadata
    from ml.corpora.label_embeddings import read_label_vectors
    from ml.device import choose_device
    from ml.labels.clap_files import clap_files_of
    from ml.retrieval.embeddings.baselines import load_models
    from ml.retrieval.evaluation.evaluate import EvaluationConfig, evaluate_by_protocol

    settings, name = home.settings(), context.partition_key
    layout, chosen = settings.layout, settings.evaluation
    config = EvaluationConfig(
        resamples=chosen.bootstrap_resamples, seed=chosen.seed, device=str(choose_device("auto"))
    )
    models = load_models(layout, clap=clap_files_of(settings))
    vectors = read_label_vectors(layout, name)
    made = {
        protocol: evaluate_by_protocol(
            name,
            models,
            layout,
            vectors,
            protocol=protocol,
            config=config,
            tracking_uri=settings.tracking_uri,
        )
        for protocol in chosen.protocols
    }
    rows = [row for _, found in made.values() for row in found]
    first, *others = [artifact for artifact, _ in made.values()]
    artifacts = {protocol: artifact for protocol, (artifact, _) in made.items()}
    return materialized(
        together(first.path, artifacts, **first.summary) if others else first,
        rows=len(rows),
        table=first.path / score_files.SCORES,
        metadata=evaluation_metadata(rows, settings.corpus(name).kind),
    )


@dg.asset(
    group_name="evaluation",
    kinds={"python", "matplotlib"},
    owners=["team:music-ml"],
    deps=[
        contrastive_encoder,
        stem_jepa,
        dg.AssetDep(retrieval_scores, partition_mapping=dg.AllPartitionMapping()),
        # By key: their modules import this one's assets.
        dg.AssetDep("instrument_scores", partition_mapping=dg.AllPartitionMapping()),
        "beat_scores",
    ],
    code_version=str(kinds.REPORT.format_version),
)
def report(home: StemsHome) -> dg.MaterializeResult:
    """One self-contained HTML page: loss curves, scores, a map of the embeddings, samples."""
    from ml.reports.report import PAGE_NAME, TRACKING_URL, build_report

    settings = home.settings()
    uri = settings.tracking_uri
    artifact = build_report(
        settings.layout,
        tracking_url=uri if uri.startswith("http") else TRACKING_URL,
    )
    page = artifact.path / PAGE_NAME
    return materialized(artifact, metadata={"page": dg.MetadataValue.path(page)})


@dg.asset(
    group_name="evaluation",
    kinds={"numpy", "parquet"},
    owners=["team:music-ml"],
    partitions_def=corpora,
    deps=[retrieval_scores],
    code_version=str(kinds.SCORES.format_version),
)
def instrument_scores(context: dg.AssetExecutionContext, home: StemsHome) -> dg.MaterializeResult:
    """Shares of right stem, track, instrument and category (Fig. 2); recall of unknown labels."""
    from ml.labels.encoders import label_encoder_of
    from ml.reports.tracked_instruments import track_instruments
    from ml.retrieval.evaluation.instruments import (
        INSTRUMENTS,
        evaluate_instruments,
        read_instruments,
    )

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
        scores: of ``ml.scores.files.read_scores``, evaluation ``instruments``.
        rows: of ``ml.retrieval.evaluation.instruments.read_instruments``.
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
    from ml.retrieval.evaluation.presence import PRESENCES

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
    from ml.reports.instruments import share_bars

    png = io.BytesIO()
    share_bars(rows).savefig(png, format="png", dpi=120, facecolor="white")
    return base64.b64encode(png.getvalue()).decode()
