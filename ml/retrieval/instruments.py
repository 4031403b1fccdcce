"""The instrument analysis (Riou et al., Fig. 2): what was found instead, and zero-shot recall.

From the answers that ``ml.retrieval.evaluate`` wrote; nothing is ranked again. The rows of
``scores.parquet`` (evaluation ``instruments``, all in percent):

* ``recall@1/<presence>``, ``recall@10/…``, ``normalized_rank_mean/…``, ``normalized_rank_median/…``
  over the queries whose text training met as ``same-text``, in ``other-words``, not at all
  (``zero-shot``), and those without a label (``no-label``); see ``ml.retrieval.presence``.
* ``recall@1/or-same-label``: as recall@1, but another stem of the query's track with the same label
  is right too, since nothing in the query tells the two apart.
* ``right_category``: the nearest stem has the right category, in whatever track;
  ``right_category_and_track``: in the right one. The paper reports 22 % right stem and 40 % right
  category without saying which.
* ``share/<kind>``: the seven shares of all queries for labelled stems, which sum to 100.

Chance is that of a gallery in random order. Intervals come from a bootstrap over tracks; where no
query or every query was found, they are binomial (``instrument_rows.share_interval``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ml.artifacts import Artifact, ArtifactError, DataLayout, find_current, finish, read_manifest
from ml.locks import lock
from ml.models.label_encoders import LabelEncoder
from ml.retrieval.embedding_files import GALLERY, read_table
from ml.retrieval.instrument_files import EVALUATION, write_confusion, write_instruments
from ml.retrieval.instrument_rows import (
    confusion_rows,
    instrument_rows,
    kind_rows,
    presence_rows,
)
from ml.retrieval.nearest import (
    Stems,
    answer_kinds,
    answered,
    gallery_stems,
    has_same_label_in_track,
)
from ml.retrieval.presence import (
    OTHER_WORDS_SIMILARITY,
    PRESENCES,
    label_presences,
    text_vectors,
    training_labels,
)
from ml.retrieval.score_files import FORMAT_VERSION, MADE_BY, QUERIES, write_scores

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
    found = find_current(folder, identity, format_version=FORMAT_VERSION)
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
            format_version=FORMAT_VERSION,
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
    made_by = f"{MADE_BY} --corpus {corpus}"
    manifest = read_manifest(folder, format_version=FORMAT_VERSION, made_by=made_by)
    if not (folder / QUERIES).is_file():
        raise ArtifactError(f"{folder / QUERIES} has gone; delete {folder} and run: {made_by}")
    queries = read_table(folder / QUERIES).to_pylist()
    if not queries:
        raise ValueError(
            f"{folder} holds only queries of tracks that a model was trained on, which say nothing "
            f"of zero-shot; score other splits or another corpus with: {MADE_BY}"
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
