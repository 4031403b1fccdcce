"""What Dagster is told of an ``ml`` artifact, and what it recorded of earlier ones.

Scores are shown on an asset's page as a table, a plot, and numbers over time.
"""

import base64
import io
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets_def.resources import corpora
from ml.artifacts import Artifact, DataLayout, fingerprint, git_revision, read_json
from ml.kinds import ArtifactKind
from ml.metrics import MAIN, RETRIEVAL
from ml.mlflow_store import pages_url
from ml.training.run_folder import mlflow_page

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_EARLIER_LOOKED_AT = 500
"""How many evaluations of a check ``earlier_numbers`` reads at most."""
_PLOTTED = "recall@10"


def artifact_asset(
    kind: ArtifactKind, **options: Any
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Declare an asset that stands for artifacts of one kind; its code version is their format."""
    return dg.asset(owners=["team:music-ml"], code_version=str(kind.format_version), **options)


def materialized(
    artifact: Artifact,
    *,
    rows: int | None = None,
    table: Path | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> dg.MaterializeResult:
    """Make the result of an asset that is one artifact.

    Args:
        artifact: what the builder returned; its summary becomes metadata.
        rows: how many rows it has.
        table: a Parquet file of it, for its columns.
        metadata: what else to show, and first; wins over the summary.
    """
    told = metadata or {}
    shown = {
        **told,
        **{
            k: value for k, value in artifact.summary.items() if value is not None and k not in told
        },
        "uri": dg.MetadataValue.path(artifact.path),
        "reused": artifact.reused,
        "git_revision": git_revision(),
    }
    if rows is not None:
        shown["dagster/row_count"] = rows
    if table is not None:
        shown["dagster/column_schema"] = _column_schema(table)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(artifact.fingerprint[:16]), metadata=readable(shown)
    )


def readable(values: Mapping[str, Any]) -> dict[str, Any]:
    """Round numbers to three digits, for people; all else stays."""
    return {
        key: float(f"{value:.3g}") if isinstance(value, float) and math.isfinite(value) else value
        for key, value in values.items()
    }


def join_artifacts(folder: Path, artifacts: Mapping[str, Artifact], **summary: Any) -> Artifact:
    """Join several artifacts that one asset stands for.

    Args:
        folder: what holds them all.
        artifacts: by name; the names go into the version.
        summary: what to tell of all of them.
    """
    return Artifact(
        path=folder,
        fingerprint=fingerprint({name: a.fingerprint for name, a in artifacts.items()}),
        reused=all(artifact.reused for artifact in artifacts.values()),
        summary=summary,
    )


def corpus_check(**options: Any) -> Callable[[Callable[..., Any]], dg.AssetChecksDefinition]:
    """Declare a check of a partitioned asset; each corpus has its own verdicts and plot."""

    def declare(function: Callable[..., Any]) -> dg.AssetChecksDefinition:
        with warnings.catch_warnings():  # Dagster calls partitions of checks a preview
            warnings.simplefilter("ignore", dg.PreviewWarning)
            return dg.asset_check(partitions_def=corpora, **options)(function)

    return declare


def mlflow_run(checkpoint: Path, tracking_uri: str) -> dict[str, Any]:
    """Give the MLflow run of a checkpoint as metadata; empty where it was not tracked."""
    run_id = read_json(checkpoint / "manifest.json").get("mlflow_run_id")
    if not run_id:
        return {}
    page = f"{pages_url(tracking_uri)}/{mlflow_page(checkpoint, run_id)}"
    return {"mlflow_run": dg.MetadataValue.url(page)}


def earlier_numbers(
    context: dg.AssetCheckExecutionContext, asset: dg.AssetsDefinition, check: str
) -> Iterator[Mapping[str, Any]]:
    """Yield the metadata of a check's earlier evaluations as plain values, newest first.

    Artifacts are replaced when they are built anew; Dagster keeps what was said of them.
    """
    records = context.instance.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(asset.key, check), limit=_EARLIER_LOOKED_AT
    )
    for record in records:
        event = record.event.dagster_event if record.event else None
        if event is None or record.run_id == context.run.run_id:
            continue
        evaluation = event.event_specific_data
        if isinstance(evaluation, dg.AssetCheckEvaluation):
            yield {key: value.value for key, value in evaluation.metadata.items()}


def _column_schema(path: Path) -> dg.TableSchema:
    """Read the columns of a Parquet file."""
    import pyarrow.parquet as pq

    return dg.TableSchema(
        columns=[
            dg.TableColumn(name=column.name, type=str(column.type))
            for column in pq.read_schema(path)
        ]
    )


def evaluation_metadata(rows: Sequence[Mapping[str, Any]], kind: str) -> dict[str, Any]:
    """Make metadata for all evaluations of one corpus, paired differences left out.

    Entries of the plain evaluation have their own names, those of others its name before theirs,
    and those of a second conditioning that.

    Args:
        rows: of ``ml.scores.files.read_scores``, one corpus.
        kind: of the corpus; decides which published figures stand beside ours.
    """
    from ml.retrieval.evaluation.evaluate import EVALUATION
    from ml.scores.files import LOSS, PAIRED, SWAPPED
    from ml.scores.text import published_rows

    shown: dict[str, Any] = {}
    for key in dict.fromkeys((row["evaluation"], row["conditioning"]) for row in rows):
        evaluation, conditioning = key
        if evaluation == PAIRED:
            continue
        scores = [row for row in rows if (row["evaluation"], row["conditioning"]) == key]
        beside = published_rows(kind, scores)
        prefix = "" if evaluation == EVALUATION else f"{evaluation}/"
        if conditioning != rows[0]["conditioning"]:
            prefix += f"{conditioning}/"
        if evaluation.endswith((SWAPPED, LOSS)):
            shown[f"{prefix}scores"] = dg.MetadataValue.md(score_markdown(scores))
            continue
        metadata = score_metadata(scores, beside)
        shown |= {f"{prefix}{name}": value for name, value in metadata.items()}
    return shown


def score_metadata(
    rows: Sequence[Mapping[str, Any]], published: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """Make metadata for the scores of one corpus.

    Args:
        rows: of ``ml.scores.files.read_scores``, one evaluation.
        published: rows of ``ml.scores.text`` to stand below them in the table.
    """
    shown: dict[str, Any] = {
        f"{row['model']}/{row['metric']}": row["value"]
        for row in rows
        if row["metric"] in (_PLOTTED, "normalized_rank_mean") and row["value"] is not None
    }
    return shown | {
        "scores": dg.MetadataValue.md(score_markdown([*rows, *published])),
        "plot": _picture(_recall_bars(rows), _PLOTTED),
    }


def score_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write one line a model and one for chance, in percent, with 95 % intervals."""
    chance = {row["metric"]: row["chance"] for row in rows if row["chance"] is not None}
    metrics = [name for name, x in RETRIEVAL.items() if name in chance and not x.is_detail]
    by_metric = {(row["model"], row["metric"]): row for row in rows}
    lines = ["| model | " + " | ".join(metrics) + " |", "|---" * (len(metrics) + 1) + "|"]
    for model in dict.fromkeys(row["model"] for row in rows):
        cells = [_cell(by_metric.get((model, metric))) for metric in metrics]
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    lines.append("| *chance* | " + " | ".join(f"{chance[m]:.1f}" for m in metrics) + " |")
    return "\n".join(lines)


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None or row["value"] is None:
        return "–"
    interval = "" if row["low"] is None else f" ({row['low']:.1f}–{row['high']:.1f})"
    return f"{row['value']:.1f}{interval}"


def instrument_metadata(
    scores: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Make metadata: a table by presence group, and Fig. 2 of the model that finds the most stems.

    Args:
        scores: of ``ml.scores.files.read_scores``, evaluation ``instruments``.
        rows: of ``ml.retrieval.evaluation.instruments.read_instruments``.
    """
    from ml.reports.instruments import share_bars

    shown: dict[str, Any] = {"presence": dg.MetadataValue.md(presence_markdown(scores))}
    right_stems: Counter[tuple[str, str]] = Counter()
    for row in rows:
        right_stems[row["model"], row["conditioning"]] += row["right_stem"] * row["queries"]
    if right_stems:
        best = max(right_stems, key=lambda key: right_stems[key])
        plotted = [row for row in rows if (row["model"], row["conditioning"]) == best]
        shown |= {"plotted": " ".join(best), "plot": _picture(share_bars(plotted), "shares")}
    return shown


def presence_markdown(scores: Sequence[Mapping[str, Any]]) -> str:
    """Write a line a model: recall@1 and mean rank of each presence group, in percent."""
    from ml.retrieval.evaluation.presence import PRESENCES

    metrics = [
        f"{metric}/{group}"
        for group in PRESENCES
        for metric in ("recall@1", "normalized_rank_mean")
        if any(row["metric"] == f"{metric}/{group}" for row in scores)
    ]
    rows = {(row["model"], row["conditioning"], row["metric"]): row for row in scores}
    lines = ["| model | " + " | ".join(metrics) + " |", "|---" * (len(metrics) + 1) + "|"]
    for model, conditioning in dict.fromkeys(key[:2] for key in rows):
        cells = [rows.get((model, conditioning, metric)) for metric in metrics]
        values = " | ".join("–" if cell is None else f"{cell['value']:.1f}" for cell in cells)
        lines.append(f"| {model}, {conditioning} | {values} |")
    chance = {row["metric"]: row["chance"] for row in scores}
    lines.append("| *chance* | " + " | ".join(f"{chance[m]:.1f}" for m in metrics) + " |")
    return "\n".join(lines)


def champion_markdown(layout: DataLayout, model_id: str) -> str:
    """Write a line a corpus and metric: the scores of one version of a model, in percent."""
    from ml.retrieval.evaluation.evaluate import EVALUATION
    from ml.scores.files import read_scores, scored_corpora, scored_models

    called = {
        (corpus, name)
        for corpus in scored_corpora(layout, EVALUATION)
        for name, scored in scored_models(layout, EVALUATION, corpus).items()
        if scored == model_id
    }
    lines = ["| corpus | metric | score (95 % interval) | chance |", "|---|---|---|---|"]
    for row in read_scores(layout, evaluation=EVALUATION):
        if (row["corpus"], row["model"]) in called and row["metric"] in MAIN:
            cells = (row["corpus"], row["metric"], _cell(row), f"{row['chance']:.1f}")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def comparison_markdown(comparisons: Any) -> str:
    """Write a line a corpus and metric: candidate, champion, difference and interval, percent.

    Args:
        comparisons: sequence of ``ml.retrieval.evaluation.compare.CorpusComparison``.
    """
    lines = [
        "| corpus | metric | candidate | champion | difference | 95 % interval | queries |",
        "|---|---|---|---|---|---|---|",
    ]
    for comparison in comparisons:
        for row in comparison.metrics:
            interval = f"{row.difference.low:+.1f}…{row.difference.high:+.1f}"
            lines.append(
                f"| {comparison.corpus} | {row.metric} | {row.a:.1f} | {row.b:.1f} | "
                f"{row.difference.value:+.1f} | {interval} | {row.n_queries} |"
            )
    return "\n".join(lines)


def _recall_bars(rows: Sequence[Mapping[str, Any]]) -> "Figure":
    from ml.figures import Bar, score_bars

    plotted = [row for row in rows if row["metric"] == _PLOTTED]
    bars = [
        Bar(name=row["model"], value=row["value"], low=row["low"], high=row["high"])
        for row in plotted
    ]
    highest = max(row["high"] or row["value"] for row in plotted)
    return score_bars(
        bars,
        label=f"{_PLOTTED} in percent",
        chance=plotted[0]["chance"],
        limit=max(1.0, 1.15 * highest),
    )


def _picture(figure: "Figure", name: str) -> dg.MarkdownMetadataValue:
    """Put a figure into markdown, as a PNG in base64."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=120, facecolor="white")
    data = base64.b64encode(png.getvalue()).decode()
    return dg.MetadataValue.md(f"![{name}](data:image/png;base64,{data})")
