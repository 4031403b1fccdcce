"""Are the shards of a corpus whole, and what is in them? For people and for asset checks.

[plots] What is in the shards of a corpus, as a table and as one figure of four histograms.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ml.artifacts import ArtifactError, DataLayout
from ml.audio.activity import active_seconds
from ml.progress import progress
from ml.shards.damage import DamagedShardError
from ml.shards.folders import LocalFolder, Shard, ShardFolder, built_folder, intact_indexes
from ml.shards.index import ShardIndex
from ml.tracks import MUSIC

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class ShardReport:
    """What ``check_shards`` found."""

    summary: Mapping[str, Any]
    """Tracks, segments, hours and dropped silence, in all and by split (``train_hours``…)."""
    splits: tuple[str, ...]
    n_shards: int
    n_bytes: int
    label_encoder: Mapping[str, Any]
    stored_stems: Mapping[str, int]
    """Stems by their finest label, most frequent first; a stem counts once per segment."""
    problems: tuple[str, ...]
    """One sentence for each damaged shard; empty when all is well."""


def check_shards(folder: Path | ShardFolder) -> ShardReport:
    """Compare every shard with its checksum and count what the indexes list.

    Args:
        folder: the shards of a corpus; ``ml.shards.folders.built_folder`` knows where they lie.

    Raises:
        ArtifactError: there is no manifest.
        ml.shards.folders.RemoteError: they lie at a URL that cannot be read.
    """
    if isinstance(folder, Path):
        folder = LocalFolder(folder)
    manifest = folder.manifest()
    shards = manifest["shards"]
    labels: Counter[str] = Counter()
    problems = []
    indexes = folder.indexes([entry["name"] for entry in shards])
    for entry, index in progress(
        zip(shards, indexes, strict=True), total=len(shards), label=f"checking {folder.name}"
    ):
        if isinstance(index, DamagedShardError):
            problems.append(index.damage.problem)
            continue
        labels.update(
            stem.labels[-1] if stem.labels else MUSIC
            for segment in index.segments
            for stem in segment.stems
        )
        problems += _problem(folder, Shard.of(index), entry["sha256"])
    return ShardReport(
        summary=manifest["summary"],
        splits=tuple(sorted({entry["split"] for entry in shards})),
        n_shards=len(shards),
        n_bytes=sum(entry["bytes"] for entry in shards),
        label_encoder=manifest["label_encoder"],
        stored_stems=dict(labels.most_common()),
        problems=tuple(problems),
    )


def _problem(folder: ShardFolder, shard: Shard, sha256: str) -> list[str]:
    where = folder.where(shard.name)
    try:
        found = folder.checksum(shard)
    except FileNotFoundError:
        return [f"{where} does not exist"]
    return [] if found == sha256 else [f"{where} has SHA-256 {found}, expected {sha256}"]


LABELS_SHOWN = 15
"""Labels with a bar of their own; the others share one."""


_BLUE, _GREY = "#0072B2", "#8C8C8C"


def stored_stems(layout: DataLayout, name: str) -> pl.DataFrame:
    """One row for each stem of each segment in the shards of a corpus.

    Columns: ``segment`` (key of the sample), ``stem_id``, ``label`` (the finest, "music" where
    there is none), ``seconds``, ``active_share`` (0…1 of the segment), ``level_db`` (RMS of the
    whole stem in dB relative to full scale, by ``corpus_tracks``; null where that is not built).

    Raises:
        ArtifactError: there are no shards, or an index is damaged.
    """
    import polars as pl

    tables = [_rows(index) for index in intact_indexes(built_folder(layout, name))]
    return pl.concat(tables).join(_levels(layout, name), on="stem_id", how="left")


def stem_histograms(stems: pl.DataFrame, name: str) -> Figure:
    """Active share, level, stems per segment and seconds per label.

    Args:
        stems: as ``stored_stems`` gives it.
        name: of the corpus, for the title.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 6.4), layout="constrained")
    (share, level), (size, label) = figure.subplots(2, 2)
    hours = stems["seconds"].sum() / 3600
    figure.suptitle(f"{_plain(name)}: {len(stems):,} stems in segments, {hours:.1f} h")
    percent, edges = 100 * stems["active_share"].to_numpy(), np.linspace(0, 100, 21)
    _histogram(share, percent, edges, "active share of a segment (%)", "stems in segments")
    levels = stems.unique("stem_id")["level_db"].drop_nulls().to_numpy()
    _histogram(level, levels, _level_edges(levels), "level of a stem (dB full scale, RMS)", "stems")
    sizes = stems.group_by("segment").len()["len"].to_numpy()
    edges = np.arange(sizes.max(initial=1) + 1) + 0.5
    _histogram(size, sizes, edges, "stems in a segment", "segments")
    _label_bars(label, stems)
    return figure


def save_figure(figure: Figure, path: Path, title: str) -> None:
    """Write a figure as PNG, SVG or one HTML page, by the suffix of ``path``.

    Raises:
        ValueError: another suffix.
    """
    from ml.artifacts import write_aside

    suffix = path.suffix.lower()
    if suffix not in (".png", ".svg", ".html"):
        raise ValueError(f"{path} ends in {suffix!r}; expected .png, .svg or .html")
    with write_aside(path) as aside:
        if suffix == ".html":
            aside.write_text(_page(figure, title), encoding="utf-8")
        else:
            figure.savefig(aside, format=suffix[1:], dpi=150, metadata=None)


def _rows(index: ShardIndex) -> pl.DataFrame:
    import polars as pl

    rows = []
    for segment in index.segments:
        seconds = segment.samples / index.rate_hz
        for stem in segment.stems:
            label = stem.labels[-1] if stem.labels else MUSIC
            active_share = active_seconds(stem.intervals, 0.0, seconds) / seconds
            rows.append((segment.key, stem.stem_id, label, seconds, active_share))
    schema = {"segment": pl.String, "stem_id": pl.String, "label": pl.String}
    numbers = {"seconds": pl.Float64, "active_share": pl.Float64}
    return pl.DataFrame(rows, schema=schema | numbers, orient="row")


def _levels(layout: DataLayout, name: str) -> pl.DataFrame:
    import polars as pl

    from ml.corpora.table import read_corpus_tracks

    try:
        table = read_corpus_tracks(layout, name)
    except ArtifactError:  # shards can be read without the table they were made from
        return pl.DataFrame(schema={"stem_id": pl.String, "level_db": pl.Float64})
    return table.select("stem_id", level_db="rms_db")


def _level_edges(levels: np.ndarray) -> np.ndarray:
    """Edges of 3 dB from the quietest to the loudest stem."""
    if not levels.size:
        return np.array([-60.0, 0.0])
    low, high = 3 * np.floor(levels.min() / 3), 3 * np.floor(levels.max() / 3) + 3
    return np.arange(low, high + 1.5, 3)


def _histogram(
    axes: Axes,
    values: np.ndarray,
    edges: np.ndarray,
    label: str,
    counted: str = "stems in segments",
) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.hist(values, bins=list(edges), color=_BLUE, edgecolor="white", linewidth=0.5)
    axes.set_xlabel(label)
    axes.set_ylabel(counted)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    if not values.size:
        axes.text(0.5, 0.5, "not known", transform=axes.transAxes, ha="center", color=_GREY)
    _plain_axes(axes)


def _label_bars(axes: Axes, stems: pl.DataFrame) -> None:
    import polars as pl

    totals = stems.group_by("label").agg(pl.col("seconds").sum()).sort("seconds", "label")
    rest, shown = totals.head(max(0, len(totals) - LABELS_SHOWN)), totals.tail(LABELS_SHOWN)
    names, seconds = shown["label"].to_list(), shown["seconds"].to_list()
    colours = [_BLUE] * len(names)
    if len(rest):
        names = [f"{len(rest)} other labels", *names]
        seconds, colours = [rest["seconds"].sum(), *seconds], [_GREY, *colours]
    axes.barh([_plain(text) for text in names], seconds, color=colours, height=0.7)
    axes.set_xlabel("seconds per label")
    axes.tick_params(axis="y", labelsize=8, length=0)
    _plain_axes(axes)


def _plain_axes(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _page(figure: Figure, title: str) -> str:
    from html import escape

    from ml.figures import figure_svg

    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{escape(title)}</title>\n"
        "<style>body{font-family:sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
        "svg{width:100%;height:auto}</style>\n</head>\n<body>\n"
        f"{figure_svg(figure, 'shards')}\n</body>\n</html>\n"
    )


def _plain(text: str) -> str:
    """Text of users as it is: no mathematics between dollar signs."""
    return text.replace("$", r"\$")
