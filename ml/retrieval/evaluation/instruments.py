"""The instrument analysis (Riou et al., Fig. 2): what was found instead, and zero-shot recall.

From the answers that ``ml.retrieval.evaluation.evaluate`` wrote; nothing is ranked again. Files in
``scores/instruments/<corpus>/``, all figures in percent: ``instruments.parquet`` one row per model
and instrument, ``confusion.parquet`` one row per model and pair of categories, and
``scores.parquet`` with

* ``recall@1/<presence>``, ``recall@10/…``, ``normalized_rank_mean/…``, ``normalized_rank_median/…``
  over the queries whose text training met as ``same-text``, in ``other-words``, not at all
  (``zero-shot``), and those without a label (``no-label``); see
  ``ml.retrieval.evaluation.presence``.
* ``recall@1/or-same-label``: as recall@1, but another stem of the query's track with the same label
  is right too, since nothing in the query tells the two apart.
* ``right_category``: the nearest stem has the right category, in whatever track;
  ``right_category_and_track``: in the right one. The paper reports 22 % right stem and 40 % right
  category without saying which.
* ``share/<kind>``: the seven shares (``SHARES``) of all queries for labelled stems, which sum to
  100. Queries for unlabelled stems have no right instrument and are of no kind.

Chance is that of a gallery in random order. Intervals come from a bootstrap over tracks; where no
query or every query was found, they are binomial (``share_interval``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ml import kinds
from ml.artifacts import Artifact, ArtifactError, DataLayout, read_manifest
from ml.labels.encoder import LabelEncoder
from ml.metrics import METRICS
from ml.parquet import read_table
from ml.retrieval.embeddings.files import GALLERY, read_embedding_manifest
from ml.retrieval.evaluation.evaluate import EVALUATION as RETRIEVAL
from ml.retrieval.evaluation.presence import (
    OTHER_WORDS_SIMILARITY,
    PRESENCES,
    LabelPresence,
    label_presences,
    text_vectors,
    training_labels,
)
from ml.retrieval.evaluation.ranks import (
    Answers,
    Gallery,
    Queries,
    chance_scores,
    gallery_of,
    query_values,
)
from ml.scores.files import (
    COUNT,
    NUMBER,
    QUERIES,
    TEXT,
    Evaluated,
    evaluate_once,
    read_rows,
    score_row,
    write_rows,
)
from ml.scores.files import MADE_BY as SCORED_BY
from ml.scores.intervals import Interval, TrackBootstrap

EVALUATION = "instruments"
INSTRUMENTS, CONFUSION = "instruments.parquet", "confusion.parquet"
MADE_BY = "stems evaluate instruments --corpus"
TABLES_VERSION = 1
"""Part of the identity; raised when the tables here change."""
UNLABELLED = "unlabelled"
SHARES = (
    "right_stem",
    "right_track_right_instrument",
    "right_track_right_category",
    "right_track_wrong_category",
    "other_track_right_instrument",
    "other_track_right_category",
    "other_track_wrong_category",
)
"""What the nearest stem was: the first that applies (Riou et al., Fig. 2). "Right instrument" is
the same finest label, "right category" the same coarsest one."""
UNIONS = {
    "recall@1/or-same-label": (0, 1),
    "right_category": (0, 1, 2, 4, 5),
    "right_category_and_track": (0, 1, 2),
}
"""Metrics that are sums of ``SHARES``, by their places."""
BY_PRESENCE = ("recall@1", "recall@10", "normalized_rank_mean", "normalized_rank_median")
"""What is measured per presence group."""
INSTRUMENT_COLUMNS = {
    **dict.fromkeys(("model", "conditioning", "instrument", "category"), TEXT),
    "queries": COUNT,
    **dict.fromkeys(SHARES, NUMBER),
    "recall@10": NUMBER,
    "normalized_rank_mean": NUMBER,
    "presence": TEXT,
    "nearest_training_label": TEXT,
    "similarity": NUMBER,
}
CONFUSION_COLUMNS = {
    **dict.fromkeys(("model", "conditioning", "category", "nearest_category"), TEXT),
    "queries": COUNT,
    "share": NUMBER,
}


def evaluate_instruments(
    corpus: str,
    layout: DataLayout,
    encoder: LabelEncoder,
    *,
    threshold: float = OTHER_WORDS_SIMILARITY,
    resamples: int = 1000,
    seed: int = 0,
) -> Artifact:
    """Analyse the current retrieval scores of a corpus, for all models in them.

    Args:
        corpus: its name.
        layout: where scores, embeddings and checkpoints lie.
        encoder: what says how near two labels are.
        threshold: similarity from which a label counts as known in other words.
        resamples: draws of the bootstrap.
        seed: of the draws.

    Returns:
        The artifact with ``scores.parquet``, ``instruments.parquet``, ``confusion.parquet``.

    Raises:
        ArtifactError: the corpus was not scored, its gallery changed since, or no checkpoint says
            which labels it met in training.
        ValueError: there are only queries of tracks seen in training.
    """
    scored = _read_scored(layout, corpus)
    labels = training_labels(layout, list(scored.models.values()))
    identity = {
        "tables": TABLES_VERSION,
        "corpus": corpus,
        "models": list(scored.models.items()),
        "retrieval": scored.fingerprint,
        "training_labels": labels,
        "encoder": encoder.fingerprint,
        "threshold": threshold,
        "resamples": resamples,
        "seed": seed,
    }

    def analyse() -> Evaluated:
        asked = {row["label"] for row in scored.rows}
        texts = asked.union(*labels.values())
        vectors = text_vectors(layout, texts, encoder)
        by_model: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
        for row in scored.rows:
            by_model.setdefault((row["conditioning"], row["model"]), []).append(row)
        parts = []
        for (conditioning, model), rows in by_model.items():
            known = labels[scored.models[model]]
            presences = label_presences(asked, known, vectors, threshold=threshold)
            header = {"model": model, "conditioning": conditioning}
            draws = {"resamples": resamples, "seed": seed}
            parts.append(_analyse(header, scored.gallery, rows, presences, draws))
        return Evaluated(
            scores=[{"corpus": corpus, **row} for part in parts for row in part.scores],
            summary=_summary(parts),
            write_more=partial(_write_tables, parts),
        )

    return evaluate_once(layout, EVALUATION, corpus, identity, analyse)


def read_instruments(layout: DataLayout, corpus: str) -> list[dict[str, Any]]:
    """Read the rows of ``instruments.parquet``.

    Raises:
        ArtifactError: the analysis was not made, is damaged or has another format.
    """
    return _read(layout.scores(EVALUATION, corpus), INSTRUMENTS)


def read_confusion(layout: DataLayout, corpus: str) -> list[dict[str, Any]]:
    """Read the rows of ``confusion.parquet``.

    Raises:
        ArtifactError: the analysis was not made, is damaged or has another format.
    """
    return _read(layout.scores(EVALUATION, corpus), CONFUSION)


def answer_kinds(gallery: Gallery, targets: np.ndarray, nearest: np.ndarray) -> np.ndarray:
    """Say which of ``SHARES`` each answer is: (query,), -1 where the target is unlabelled.

    Args:
        gallery: the stems.
        targets: (query,) indices of the stems looked for.
        nearest: (query,) indices of the answers.
    """
    is_instrument = gallery.labels[nearest] == gallery.labels[targets]
    is_category = gallery.categories[nearest] == gallery.categories[targets]
    step = np.where(is_instrument, 0, np.where(is_category, 1, 2))
    is_track = gallery.tracks[nearest] == gallery.tracks[targets]
    kinds = np.where(is_track, 1, 4) + step
    kinds = np.where(nearest == targets, 0, kinds)
    return np.where(gallery.is_labelled[targets], kinds, -1)


def kind_chance(gallery: Gallery, targets: np.ndarray) -> np.ndarray:
    """Compute which share of the gallery is of each kind for each query: (query, 7), in percent.

    Args:
        gallery: the stems.
        targets: (query,) indices of the labelled stems looked for.
    """

    def count(*scope: np.ndarray) -> np.ndarray:
        """Count stems like each in ``scope`` by right instrument, category or none: (3, stem)."""
        instrument = gallery.count_like(*scope, gallery.labels)
        both = gallery.count_like(*scope, gallery.categories, gallery.labels)
        category = gallery.count_like(*scope, gallery.categories) - both
        return np.stack([instrument, category, gallery.count_like(*scope) - instrument - category])

    in_track, anywhere = count(gallery.tracks), count(np.zeros(len(gallery)))
    itself = np.ones(len(gallery), dtype=np.int64)
    counts = np.stack([itself, in_track[0] - 1, *in_track[1:], *(anywhere - in_track)], axis=1)
    return 100 * (counts[targets] / len(gallery))


def share_interval(bootstrap: TrackBootstrap, values: np.ndarray) -> Interval:
    """Compute mean and 95 % interval of values that are 0 or 100.

    Draws of equal values have no spread, so the bootstrap would call "0 of 18 found" certain. There
    the interval is the exact one of a binomial share (Clopper and Pearson, 1934) on as many trials
    as there are tracks: 0 of 18 tracks may still be 18.5 %.
    """
    interval = bootstrap.interval(values)
    if bootstrap.n_tracks < 2 or values.min() != values.max():
        return interval
    reach = 100 * (1 - 0.025 ** (1 / bootstrap.n_tracks))
    if interval.value == 0:
        return Interval(value=0.0, low=0.0, high=reach)
    return Interval(value=100.0, low=100.0 - reach, high=100.0)


@dataclass(frozen=True, kw_only=True)
class _Scored:
    """What ``evaluate_retrieval`` left."""

    fingerprint: str
    models: Mapping[str, str]
    """Name → model_id."""
    rows: Sequence[Mapping[str, Any]]
    """Of ``queries.parquet``."""
    gallery: Gallery


@dataclass(frozen=True, kw_only=True)
class _Part:
    """The rows of one model under one conditioning."""

    scores: list[dict[str, Any]]
    instruments: list[dict[str, Any]]
    confusion: list[dict[str, Any]]
    twins: int
    """Queries whose track holds another stem of the same label."""


def _read_scored(layout: DataLayout, corpus: str) -> _Scored:
    folder = layout.scores(RETRIEVAL, corpus)
    made_by = f"{SCORED_BY} --corpus {corpus}"
    manifest = read_manifest(folder, kinds.SCORES)
    if not (folder / QUERIES).is_file():
        raise ArtifactError(f"{folder / QUERIES} has gone; delete {folder} and run: {made_by}")
    rows = read_table(folder / QUERIES).to_pylist()
    if not rows:
        raise ValueError(
            f"{folder} holds only queries of tracks that a model was trained on, which say nothing "
            f"of zero-shot; score other splits or another corpus with: {SCORED_BY}"
        )
    models = dict(manifest["identity"]["models"])
    model_id = next(iter(models.values()))
    return _Scored(
        fingerprint=manifest["fingerprint"],
        models=models,
        rows=rows,
        gallery=gallery_of(
            read_table(layout.embeddings(model_id, corpus) / GALLERY),
            read_embedding_manifest(layout, model_id, corpus),
        ),
    )


def _analyse(
    header: Mapping[str, str],
    gallery: Gallery,
    rows: Sequence[Mapping[str, Any]],
    presences: Mapping[str, LabelPresence],
    draws: Mapping[str, int],
) -> _Part:
    """Analyse the answers of one model under one conditioning, rows of ``queries.parquet``."""
    queries, answers = _answers(gallery, rows)
    kinds = answer_kinds(gallery, queries.targets, answers.nearest)
    twins = gallery.count_like(gallery.tracks, gallery.labels) > 1
    scored = {"evaluation": EVALUATION, **header, "n_gallery": len(gallery)}
    return _Part(
        scores=[
            *_presence_rows(scored, gallery, queries, answers, presences, draws),
            *_kind_rows(scored, gallery, queries, kinds, draws),
        ],
        instruments=[
            {**header, **row}
            for row in _instrument_rows(gallery, queries, answers, kinds, presences)
        ],
        confusion=[{**header, **row} for row in _confusion_rows(gallery, queries, answers)],
        twins=int((twins & gallery.is_labelled)[queries.targets].sum()),
    )


def _answers(gallery: Gallery, rows: Sequence[Mapping[str, Any]]) -> tuple[Queries, Answers]:
    """Take queries and answers from rows of ``queries.parquet``.

    Raises:
        ArtifactError: a stem is not in the gallery, which was embedded again since.
    """
    place = {stem_id: i for i, stem_id in enumerate(gallery.stem_ids)}
    ids = {row[key] for row in rows for key in ("stem_id", "nearest_stem_id")}
    missing = sorted(ids - place.keys())
    if missing:
        raise ArtifactError(
            f"{len(missing)} stems of the scores, {missing[0]!r} among them, are not in the "
            f"gallery of {len(gallery)} stems; score the corpus again with: {SCORED_BY}"
        )
    queries = Queries(
        targets=np.array([place[row["stem_id"]] for row in rows], dtype=np.int64),
        asked=np.array([row["label"] for row in rows], dtype=object),
    )
    answers = Answers(
        ranks=np.array([row["rank"] for row in rows], dtype=np.int64),
        nearest=np.array([place[row["nearest_stem_id"]] for row in rows], dtype=np.int64),
    )
    return queries, answers


def _presence_rows(
    header: Mapping[str, Any],
    gallery: Gallery,
    queries: Queries,
    answers: Answers,
    presences: Mapping[str, LabelPresence],
    draws: Mapping[str, int],
) -> Iterator[dict[str, Any]]:
    """Score recall and normalised rank of each presence group that has queries."""
    values = query_values(answers.ranks, len(gallery))
    chance = chance_scores(len(gallery))
    groups = np.array([presences[text].presence for text in queries.asked])
    tracks = gallery.songs[queries.targets]
    for group in (group for group in PRESENCES if group in groups):
        chosen = groups == group
        bootstrap = TrackBootstrap(tracks[chosen], **draws)
        for metric in BY_PRESENCE:
            each = values[metric][chosen]
            interval = (
                share_interval(bootstrap, each)
                if metric.startswith("recall")
                else bootstrap.interval(each, METRICS[metric].statistic)
            )
            name = f"{metric}/{group}"
            yield score_row(header, name, interval, n_queries=len(each), chance=chance[metric])


def _kind_rows(
    header: Mapping[str, Any],
    gallery: Gallery,
    queries: Queries,
    kinds: np.ndarray,
    draws: Mapping[str, int],
) -> Iterator[dict[str, Any]]:
    """Score the seven shares, and the metrics that are sums of them, where stems are labelled."""
    targets, kinds = queries.targets[kinds >= 0], kinds[kinds >= 0]
    if not len(kinds):
        return
    chance = kind_chance(gallery, targets).mean(axis=0)
    bootstrap = TrackBootstrap(gallery.songs[targets], **draws)
    shares = {f"share/{name}": (place,) for place, name in enumerate(SHARES)}
    for metric, places in (UNIONS | shares).items():
        interval = share_interval(bootstrap, 100.0 * np.isin(kinds, places))
        level = float(chance[list(places)].sum())
        yield score_row(header, metric, interval, n_queries=len(kinds), chance=level)


def _instrument_rows(
    gallery: Gallery,
    queries: Queries,
    answers: Answers,
    kinds: np.ndarray,
    presences: Mapping[str, LabelPresence],
) -> list[dict[str, Any]]:
    """Make one row per instrument, those found most often first."""
    values = query_values(answers.ranks, len(gallery))
    labels = gallery.labels[queries.targets]
    rows = []
    for label in set(labels[kinds >= 0]):
        chosen = np.flatnonzero(labels == label)
        presence = presences[queries.asked[chosen[0]]]
        counts = np.bincount(kinds[chosen], minlength=len(SHARES))
        rows.append(
            {
                "instrument": label,
                "category": gallery.categories[queries.targets[chosen[0]]],
                "queries": len(chosen),
                **dict(zip(SHARES, (100 * counts / len(chosen)).tolist(), strict=True)),
                "recall@10": float(values["recall@10"][chosen].mean()),
                "normalized_rank_mean": float(values["normalized_rank_mean"][chosen].mean()),
                "presence": presence.presence,
                "nearest_training_label": presence.nearest,
                "similarity": presence.similarity,
            }
        )
    return sorted(rows, key=lambda row: (*(-row[share] for share in SHARES), row["instrument"]))


def _confusion_rows(
    gallery: Gallery, queries: Queries, answers: Answers
) -> Iterator[dict[str, Any]]:
    """Count the categories of wrong answers, by the category looked for."""
    names = np.where(gallery.is_labelled, gallery.categories, UNLABELLED)
    wrong = answers.nearest != queries.targets
    wanted, nearest = names[queries.targets[wrong]], names[answers.nearest[wrong]]
    totals = Counter(wanted)
    for (category, other), count in sorted(Counter(zip(wanted, nearest, strict=True)).items()):
        yield {
            "category": category,
            "nearest_category": other,
            "queries": count,
            "share": 100 * count / totals[category],
        }


def _write_tables(parts: Sequence[_Part], folder: Path) -> None:
    instruments = [row for part in parts for row in part.instruments]
    write_rows(instruments, INSTRUMENT_COLUMNS, folder / INSTRUMENTS)
    confusion = [row for part in parts for row in part.confusion]
    write_rows(confusion, CONFUSION_COLUMNS, folder / CONFUSION)


def _read(folder: Path, name: str) -> list[dict[str, Any]]:
    read_manifest(folder, kinds.SCORES)
    return read_rows(folder / name, f"{MADE_BY} {folder.name}")


def _summary(parts: Sequence[_Part]) -> dict[str, Any]:
    """Pick counts, and recall@1 of each model by presence, for people."""
    rows = [row for part in parts for row in part.scores if row["metric"].startswith("recall@1/")]
    groups = {row["metric"].partition("/")[2]: row["n_queries"] for row in rows}
    return {
        "instruments": len(parts[0].instruments),
        **{f"queries {group}": groups[group] for group in PRESENCES if group in groups},
        "queries with another stem of the label in the track": parts[0].twins,
        **{f"{row['model']} {row['metric']}": row["value"] for row in rows},
    }
