"""What models answer to the queries of a corpus: ranks, nearest stems, and chance."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np

from ml.artifacts import ArtifactError
from ml.retrieval.embedding_files import Embeddings, vectors_of
from ml.retrieval.metrics import chance_scores, query_values, ranks_and_nearest


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """The stems of a corpus and the queries for them, the same for all models."""

    stem_ids: np.ndarray
    """(stem,)"""
    tracks: np.ndarray
    """(stem,)"""
    labels: np.ndarray
    """(stem,) the label that decides a right instrument, None when unlabelled."""
    targets: np.ndarray
    """(query,) index of the stem looked for, of tracks that no model has seen in training."""
    asked: np.ndarray
    """(query,) the text each query was conditioned with."""
    seen_targets: np.ndarray
    """The same of tracks that some model has seen."""
    seen_asked: np.ndarray
    """The same of tracks that some model has seen."""

    def of_seen(self) -> Gallery:
        """The same gallery with the seen queries for queries."""
        return replace(
            self,
            targets=self.seen_targets,
            asked=self.seen_asked,
            seen_targets=self.targets,
            seen_asked=self.asked,
        )


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What one model made of the queries."""

    ranks: np.ndarray
    """(query,)"""
    nearest: np.ndarray
    """(query,) index of the stem that came first."""
    values: Mapping[str, np.ndarray]
    """Per metric (query,) percent; NaN where a metric does not apply to a query."""


def common_gallery(
    corpus: str,
    models: Mapping[str, Embeddings],
    conditioning: str,
    *,
    seen: Collection[str] = (),
) -> Gallery:
    """The gallery that all models embedded, and the queries that all of them answer.

    Args:
        corpus: its name, for errors.
        models: name → embeddings.
        conditioning: under ``coarse`` the category decides what a right instrument is.
        seen: tracks seen in training besides those that the embeddings name.

    Raises:
        ArtifactError: the models embedded different stems.
    """
    first_name, first = next(iter(models.items()))
    stem_ids = first.gallery["stem_id"].to_pylist()
    asked = first.queries["stem_id"].to_pylist()
    for name, other in models.items():
        if (
            other.gallery["stem_id"].to_pylist() != stem_ids
            or other.queries["stem_id"].to_pylist() != asked
        ):
            raise ArtifactError(
                f"the embeddings of {corpus} by {name} ({other.gallery.num_rows} stems, "
                f"{other.queries.num_rows} queries) are of other stems than those by "
                f"{first_name} ({len(stem_ids)} stems, {len(asked)} queries); make them again "
                f"with: stems embed {corpus}"
            )
    place = {stem_id: i for i, stem_id in enumerate(stem_ids)}
    targets = np.array([place[stem_id] for stem_id in asked], dtype=np.int64)
    texts = np.array(first.queries["label"].to_pylist(), dtype=object)
    all_seen = {*seen, *(track for e in models.values() for track in e.manifest["seen_tracks"])}
    is_seen = np.array([t in all_seen for t in first.queries["track_id"].to_pylist()], dtype=bool)
    column = "category" if conditioning == "coarse" else "label"
    labels = [
        label if known else None
        for label, known in zip(
            first.gallery[column].to_pylist(), first.gallery["labels"].to_pylist(), strict=True
        )
    ]
    return Gallery(
        stem_ids=np.array(stem_ids, dtype=object),
        tracks=np.array(first.gallery["track_id"].to_pylist(), dtype=object),
        labels=np.array(labels, dtype=object),
        targets=targets[~is_seen],
        asked=texts[~is_seen],
        seen_targets=targets[is_seen],
        seen_asked=texts[is_seen],
    )


def answer_queries(gallery: Gallery, embeddings: Embeddings) -> Answers:
    """Rank the gallery for each query by one model's embeddings."""
    place = {stem: i for i, stem in enumerate(embeddings.queries["stem_id"].to_pylist())}
    rows = [place[stem] for stem in gallery.stem_ids[gallery.targets]]
    vectors = vectors_of(embeddings.gallery)
    queries = vectors_of(embeddings.queries)[rows]
    ranks, nearest = ranks_and_nearest(queries, vectors, gallery.targets)
    values = query_values(ranks, len(vectors))
    wanted = gallery.labels[gallery.targets]
    right = np.where(gallery.labels[nearest] == wanted, 100.0, 0.0)
    is_labelled = np.array([label is not None for label in wanted])
    values["right_instrument"] = np.where(is_labelled, right, np.nan)
    same = gallery.tracks[nearest] == gallery.tracks[gallery.targets]
    values["right_song"] = np.where(same, 100.0, 0.0)
    return Answers(ranks=ranks, nearest=nearest, values=values)


def gallery_chance(gallery: Gallery) -> dict[str, float]:
    """What each metric would be if the gallery came in random order, in percent."""
    chance = chance_scores(len(gallery.stem_ids))
    for metric, column in (("right_instrument", gallery.labels), ("right_song", gallery.tracks)):
        wanted = [value for value in column[gallery.targets] if value is not None]
        shares = {value: float(np.mean(column == value)) for value in set(wanted)}
        chance[metric] = 100 * float(np.mean([shares[value] for value in wanted])) if wanted else 0
    return chance
