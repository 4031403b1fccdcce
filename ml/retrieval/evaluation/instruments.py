"""The instrument analysis (Riou et al., Fig. 2): what was found instead, and zero-shot recall.

From the answers that ``ml.retrieval.evaluation.evaluate`` wrote; nothing is ranked again. The rows
of
``scores.parquet`` (evaluation ``instruments``, all in percent):

* ``recall@1/<presence>``, ``recall@10/…``, ``normalized_rank_mean/…``, ``normalized_rank_median/…``
  over the queries whose text training met as ``same-text``, in ``other-words``, not at all
  (``zero-shot``), and those without a label (``no-label``); see
  ``ml.retrieval.evaluation.presence``.
* ``recall@1/or-same-label``: as recall@1, but another stem of the query's track with the same label
  is right too, since nothing in the query tells the two apart.
* ``right_category``: the nearest stem has the right category, in whatever track;
  ``right_category_and_track``: in the right one. The paper reports 22 % right stem and 40 % right
  category without saying which.
* ``share/<kind>``: the seven shares of all queries for labelled stems, which sum to 100.

Chance is that of a gallery in random order. Intervals come from a bootstrap over tracks; where no
query or every query was found, they are binomial (``instrument_rows.share_interval``).

[instrument_files] The instrument analysis as files: ``scores/instruments/<corpus>/``.

Beside ``scores.parquet`` (``ml.scores.files``): ``instruments.parquet`` one row per model
and instrument, ``confusion.parquet`` one row per model and pair of categories. Shares are percent.

[instrument_rows] The rows of the instrument analysis: by presence, by kind of answer, by
instrument, by category.

Pure functions of one model's answers; what they mean stands in
``ml.retrieval.evaluation.instruments``.

[nearest] What the nearest stem of each query was: right stem, track, instrument, category (Fig. 2).

Pure functions of the answers in ``queries.parquet`` and the stems of the gallery. Queries for
unlabelled stems have no right instrument and are of no kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ml import kinds
from ml.artifacts import Artifact, ArtifactError, DataLayout, find_current, finish, read_manifest
from ml.labels.encoder import LabelEncoder
from ml.locks import lock
from ml.parquet import read_table
from ml.retrieval.embeddings.files import GALLERY
from ml.retrieval.evaluation.presence import (
    OTHER_WORDS_SIMILARITY,
    PRESENCES,
    LabelPresence,
    label_presences,
    text_vectors,
    training_labels,
)
from ml.retrieval.evaluation.ranks import chance_scores, query_values
from ml.scores.files import (
    COUNT,
    NUMBER,
    QUERIES,
    TEXT,
    read_rows,
    write_rows,
    write_scores,
)
from ml.scores.files import MADE_BY as SCORED_BY
from ml.scores.intervals import Interval, Statistic, TrackBootstrap

TABLES_VERSION = 1
"""Part of the identity; raised when the tables here change."""


RETRIEVAL = "retrieval"


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
    folder = layout.scores(EVALUATION, corpus)
    found = find_current(folder, identity, kinds.SCORES)
    if found is not None:
        return found
    texts = {query["label"] for query in scored.queries} | {t for ts in labels.values() for t in ts}
    vectors = text_vectors(layout, texts, encoder)
    draws = {"resamples": resamples, "seed": seed}
    groups = dict.fromkeys((query["conditioning"], query["model"]) for query in scored.queries)
    parts = [
        _analyse(scored, name, conditioning, labels[scored.models[name]], vectors, threshold, draws)
        for conditioning, name in groups
    ]
    with lock(folder / ".lock"):
        write_scores([{"corpus": corpus, **row} for part in parts for row in part.scores], folder)
        write_instruments([row for part in parts for row in part.instruments], folder)
        write_confusion([row for part in parts for row in part.confusion], folder)
        return finish(
            folder,
            identity,
            kinds.SCORES,
            summary=_summary(parts[0], [row for part in parts for row in part.scores]),
        )


@dataclass(frozen=True, kw_only=True)
class _Scored:
    """What ``evaluate_retrieval`` left."""

    fingerprint: str
    models: Mapping[str, str]
    """Name → model_id."""
    queries: Sequence[Mapping[str, Any]]
    stems: Stems


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
    queries = read_table(folder / QUERIES).to_pylist()
    if not queries:
        raise ValueError(
            f"{folder} holds only queries of tracks that a model was trained on, which say nothing "
            f"of zero-shot; score other splits or another corpus with: {SCORED_BY}"
        )
    models = dict(manifest["identity"]["models"])
    gallery = layout.embeddings(next(iter(models.values())), corpus) / GALLERY
    columns = ["stem_id", "track_id", "label", "category", "labels"]
    return _Scored(
        fingerprint=manifest["fingerprint"],
        models=models,
        queries=queries,
        stems=gallery_stems(read_table(gallery).select(columns).to_pylist()),
    )


def _analyse(
    scored: _Scored,
    model: str,
    conditioning: str,
    known: Sequence[str],
    vectors: Mapping[str, np.ndarray],
    threshold: float,
    draws: Mapping[str, int],
) -> _Part:
    wanted = (model, conditioning)
    queries = [q for q in scored.queries if (q["model"], q["conditioning"]) == wanted]
    answers = answered(scored.stems, queries)
    presences = label_presences(answers.asked, known, vectors, threshold=threshold)
    kinds = answer_kinds(scored.stems, answers.targets, answers.nearest)
    named = {"model": model, "conditioning": conditioning}
    return _Part(
        scores=[
            {"evaluation": EVALUATION, **named, "n_gallery": len(scored.stems.rows), **row}
            for row in (
                *presence_rows(scored.stems, answers, presences, draws),
                *kind_rows(scored.stems, answers, kinds, draws),
            )
        ],
        instruments=[
            named | row for row in instrument_rows(scored.stems, answers, kinds, presences)
        ],
        confusion=[named | row for row in confusion_rows(scored.stems, answers)],
        twins=int(has_same_label_in_track(scored.stems, answers.targets).sum()),
    )


def _summary(first: _Part, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts, and recall@1 of each model by presence, for people."""
    shown = [row for row in rows if row["metric"].startswith("recall@1/")]
    groups = {row["metric"].partition("/")[2]: row["n_queries"] for row in shown}
    return {
        "instruments": len(first.instruments),
        **{f"queries {group}": groups[group] for group in PRESENCES if group in groups},
        "queries with another stem of the label in the track": first.twins,
        **{f"{row['model']} {row['metric']}": row["value"] for row in shown},
    }


EVALUATION = "instruments"


INSTRUMENTS, CONFUSION = "instruments.parquet", "confusion.parquet"


MADE_BY = "stems evaluate instruments --corpus"


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


def write_instruments(rows: Sequence[dict[str, Any]], folder: Path) -> None:
    """Write ``instruments.parquet``."""
    write_rows(rows, INSTRUMENT_COLUMNS, folder / INSTRUMENTS)


def write_confusion(rows: Sequence[dict[str, Any]], folder: Path) -> None:
    """Write ``confusion.parquet``."""
    write_rows(rows, CONFUSION_COLUMNS, folder / CONFUSION)


def read_instruments(layout: DataLayout, corpus: str) -> list[dict[str, Any]]:
    """Rows of ``instruments.parquet``.

    Raises:
        ArtifactError: the analysis was not made, is damaged or has a newer format.
    """
    return _read(layout.scores(EVALUATION, corpus), INSTRUMENTS)


def read_confusion(layout: DataLayout, corpus: str) -> list[dict[str, Any]]:
    """Rows of ``confusion.parquet``.

    Raises:
        ArtifactError: the analysis was not made, is damaged or has a newer format.
    """
    return _read(layout.scores(EVALUATION, corpus), CONFUSION)


def _read(folder: Path, name: str) -> list[dict[str, Any]]:
    made_by = f"{MADE_BY} {folder.name}"
    read_manifest(folder, kinds.SCORES)
    return read_rows(folder / name, made_by)


UNLABELLED = "unlabelled"


BY_PRESENCE: dict[str, Statistic] = {
    "recall@1": "mean",
    "recall@10": "mean",
    "normalized_rank_mean": "mean",
    "normalized_rank_median": "median",
}
"""What is measured per presence group."""


UNIONS = {
    "recall@1/or-same-label": (0, 1),
    "right_category": (0, 1, 2, 4, 5),
    "right_category_and_track": (0, 1, 2),
}
"""Metrics that are sums of ``SHARES``, by their places."""


def presence_rows(
    stems: Stems,
    answers: Answered,
    presences: Mapping[str, LabelPresence],
    draws: Mapping[str, int],
) -> Iterator[dict[str, Any]]:
    """Recall and normalised rank of each group that has queries."""
    values = query_values(answers.ranks, len(stems.rows))
    chance = chance_scores(len(stems.rows))
    groups = np.array([presences[text].presence for text in answers.asked])
    tracks = stems.tracks[answers.targets]
    for group in PRESENCES:
        chosen = groups == group
        if not chosen.any():
            continue
        bootstrap = TrackBootstrap(tracks[chosen], **draws)
        for metric, statistic in BY_PRESENCE.items():
            found = values[metric][chosen]
            is_share = metric.startswith("recall")
            interval = (
                share_interval(bootstrap, found)
                if is_share
                else bootstrap.interval(found, statistic)
            )
            yield {
                "metric": f"{metric}/{group}",
                "n_queries": int(chosen.sum()),
                "value": interval.value,
                "low": interval.low,
                "high": interval.high,
                "chance": chance[metric],
            }


def kind_rows(
    stems: Stems, answers: Answered, kinds: np.ndarray, draws: Mapping[str, int]
) -> Iterator[dict[str, Any]]:
    """The seven shares, and the metrics that are sums of them, over queries of labelled stems."""
    labelled = kinds >= 0
    if not labelled.any():
        return
    chance = kind_chance(stems, answers.targets[labelled]).mean(axis=0)
    bootstrap = TrackBootstrap(stems.tracks[answers.targets][labelled], **draws)
    shares = {f"share/{name}": (place,) for place, name in enumerate(SHARES)}
    for metric, places in (UNIONS | shares).items():
        interval = share_interval(bootstrap, 100.0 * np.isin(kinds[labelled], places))
        yield {
            "metric": metric,
            "n_queries": int(labelled.sum()),
            "value": interval.value,
            "low": interval.low,
            "high": interval.high,
            "chance": float(chance[list(places)].sum()),
        }


def share_interval(bootstrap: TrackBootstrap, values: np.ndarray) -> Interval:
    """Mean and 95 % interval of values that are 0 or 100.

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


def instrument_rows(
    stems: Stems, answers: Answered, kinds: np.ndarray, presences: Mapping[str, LabelPresence]
) -> list[dict[str, Any]]:
    """One row per instrument, those found most often first."""
    values = query_values(answers.ranks, len(stems.rows))
    codes = stems.instruments[answers.targets]
    rows = []
    for code in np.unique(codes[kinds >= 0]):
        chosen = np.flatnonzero(codes == code)
        target = stems.rows[answers.targets[chosen[0]]]
        presence = presences[answers.asked[chosen[0]]]
        counts = np.bincount(kinds[chosen], minlength=len(SHARES))
        rows.append(
            {
                "instrument": target["label"],
                "category": target["category"],
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


def confusion_rows(stems: Stems, answers: Answered) -> Iterator[dict[str, Any]]:
    """Of the queries that found another stem: its category, by the category looked for."""
    wrong = answers.nearest != answers.targets
    names = [row["category"] if row["labels"] else UNLABELLED for row in stems.rows]
    pairs: dict[str, dict[str, int]] = {}
    for target, nearest in zip(answers.targets[wrong], answers.nearest[wrong], strict=True):
        counts = pairs.setdefault(names[target], {})
        counts[names[nearest]] = counts.get(names[nearest], 0) + 1
    for category in sorted(pairs):
        total = sum(pairs[category].values())
        for nearest, count in sorted(pairs[category].items()):
            yield {
                "category": category,
                "nearest_category": nearest,
                "queries": count,
                "share": 100 * count / total,
            }


_BLOCK_VALUES = 4_000_000


_UNLABELLED = -1


@dataclass(frozen=True, kw_only=True)
class Stems:
    """What is known of the stems of a gallery, as small integers."""

    place: Mapping[str, int]
    """Stem id → index."""
    tracks: np.ndarray
    """(stem,) codes."""
    instruments: np.ndarray
    """(stem,) codes of the finest label; -1: unlabelled."""
    categories: np.ndarray
    """(stem,) codes of the coarsest label; -1: unlabelled."""
    rows: Sequence[Mapping[str, Any]]
    """(stem,) ``stem_id``, ``track_id``, ``label``, ``category``, ``labels``."""


@dataclass(frozen=True, kw_only=True)
class Answered:
    """The queries of one model under one conditioning."""

    targets: np.ndarray
    """(query,) index of the stem looked for."""
    nearest: np.ndarray
    """(query,) index of the stem that came first."""
    ranks: np.ndarray
    """(query,) 1…gallery size."""
    asked: tuple[str, ...]
    """(query,) the texts conditioned with."""


def gallery_stems(rows: Sequence[Mapping[str, Any]]) -> Stems:
    """Stems from rows of ``gallery.parquet``."""
    labelled = [row if row["labels"] else {} for row in rows]
    return Stems(
        place={row["stem_id"]: i for i, row in enumerate(rows)},
        tracks=_codes([row["track_id"] for row in rows]),
        instruments=_codes([row.get("label") for row in labelled]),
        categories=_codes([row.get("category") for row in labelled]),
        rows=rows,
    )


def answered(stems: Stems, queries: Sequence[Mapping[str, Any]]) -> Answered:
    """Answers from rows of ``queries.parquet`` of one model and conditioning.

    Raises:
        ArtifactError: a stem is not in the gallery, which was embedded again since.
    """
    ids = {query[key] for query in queries for key in ("stem_id", "nearest_stem_id")}
    missing = sorted(ids - stems.place.keys())
    if missing:
        raise ArtifactError(
            f"{len(missing)} stems of the scores, {missing[0]!r} among them, are not in the "
            f"gallery of {len(stems.rows)} stems; score the corpus again with: stems evaluate "
            f"retrieval"
        )
    return Answered(
        targets=np.array([stems.place[query["stem_id"]] for query in queries], dtype=np.int64),
        nearest=np.array([stems.place[q["nearest_stem_id"]] for q in queries], dtype=np.int64),
        ranks=np.array([query["rank"] for query in queries], dtype=np.int64),
        asked=tuple(query["label"] for query in queries),
    )


def answer_kinds(stems: Stems, targets: np.ndarray, nearest: np.ndarray) -> np.ndarray:
    """Which of ``SHARES`` each answer is; indices broadcast, -1 where the target is unlabelled.

    Args:
        stems: the gallery.
        targets: indices of the stems looked for.
        nearest: indices of the answers.
    """
    instruments, categories = stems.instruments[targets], stems.categories[targets]
    is_instrument = stems.instruments[nearest] == instruments
    is_category = stems.categories[nearest] == categories
    step = np.where(is_instrument, 0, np.where(is_category, 1, 2))
    is_track = stems.tracks[nearest] == stems.tracks[targets]
    kinds = np.where(is_track, 1, 4) + step
    kinds = np.where(nearest == targets, 0, kinds)
    return np.where(instruments == _UNLABELLED, -1, kinds)


def kind_chance(stems: Stems, targets: np.ndarray) -> np.ndarray:
    """Share of the gallery that is of each kind for each query: (query, 7), in percent."""
    gallery = np.arange(len(stems.rows))
    rows = max(1, _BLOCK_VALUES // len(gallery))
    found = []
    for first in range(0, len(targets), rows):
        kinds = answer_kinds(stems, targets[first : first + rows, None], gallery[None])
        found.append(np.stack([(kinds == k).mean(axis=1) for k in range(len(SHARES))], axis=1))
    return 100 * np.concatenate(found)


def has_same_label_in_track(stems: Stems, targets: np.ndarray) -> np.ndarray:
    """(query,) whether the track holds another stem of the instrument that was asked for."""
    keys = np.stack([stems.tracks, stems.instruments], axis=1)
    _, place, counts = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    return (counts[place.reshape(-1)] > 1)[targets] & (stems.instruments[targets] != _UNLABELLED)


def _codes(values: Sequence[str | None]) -> np.ndarray:
    known = {value: i for i, value in enumerate(sorted({v for v in values if v is not None}))}
    return np.array([_UNLABELLED if v is None else known[v] for v in values], dtype=np.int64)
