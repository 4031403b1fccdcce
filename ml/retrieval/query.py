"""Ask for a stem: a mix and an instrument in words in, ranked stems out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ml.artifacts import ArtifactError
from ml.audio.activity import active_intervals
from ml.audio.chunks import MIN_ACTIVE_S, active_starts
from ml.corpora.corpus import MUSIC
from ml.corpora.taxonomy import FOUR_CLASSES, four_class
from ml.models.label_encoders import LabelEncoder, build_label_encoder
from ml.retrieval.embedding_model import EmbeddingModel, check_label_encoder
from ml.retrieval.metrics import unit_rows
from ml.retrieval.mix_input import Mix, read_mix
from ml.retrieval.mixes import ACTIVITY
from ml.retrieval.search import StemTables

MIN_MIX_S = 1.0
"""A shorter mix says too little; refused."""
_BATCH_CHUNKS = 64


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A stem that could fit."""

    rank: int
    """1 = first."""
    score: float
    """Cosine of the prediction and the stem, -1…1."""
    stem_id: str
    track_id: str
    corpus: str
    label: str
    """What it plays; ``"music"`` when its corpus does not say."""
    best_start_s: float | None
    """Where in the stem the chunk begins that fits best."""
    duration_s: float
    """Length of the stem."""
    audio: str
    """Path of its audio; several files are separated by line breaks."""


class StemRetriever:
    """Finds stems in a model's table.

    Args:
        model: makes the queries; must be the one that made the table.
        table: the model's database (``stems table path``), its ``stem_embeddings`` opened with
            LanceDB, or ``StemTables``.
        label_encoder: what turns an instrument into a condition; default: the one that the model
            was trained with.

    Raises:
        ArtifactError: the table is missing, or of another model; or the label encoder is not the
            one that the model was trained with.
    """

    def __init__(
        self,
        model: EmbeddingModel,
        table: Any,
        label_encoder: LabelEncoder | None = None,
    ):
        self.model = model
        self.tables = _tables(table)
        if self.tables.model_id != model.model_id or self.tables.dim != model.dim:
            raise ArtifactError(
                f"{self.tables.uri} holds vectors of model {self.tables.model_id} "
                f"({self.tables.dim} dimensions), but queries come from {model.name}, model "
                f"{model.model_id} ({model.dim} dimensions); open the table of that model, or "
                f"embed the corpora with it: stems embed CORPUS"
            )
        if label_encoder is not None:
            _check_encoder(model, label_encoder)
            self._label_encoder = label_encoder

    def query(
        self,
        mix: Mix,
        instrument: str | None = None,
        k: int = 10,
        *,
        where: str | None = None,
        exclude_tracks: Sequence[str] = (),
        per_track: int | None = None,
    ) -> list[Candidate]:
        """The stems that fit best with a mix.

        Args:
            mix: a path, an array at the model's rate, (array, rate in Hz), or a list of these to
                sum; from 1 s up.
            instrument: what the stem should play, free text; None: any music.
            k: how many.
            where: an SQL condition on the table's columns: ``category = 'guitar'``.
            exclude_tracks: ids of tracks that must not be found.
            per_track: at most so many stems of one track.

        Returns:
            Best first; fewer than k when the filters leave fewer.

        Raises:
            AudioError: a file cannot be read.
            ValueError: the mix is silent or too short, k is out of range, the instrument is
                blank, or the filter is not understood.
        """
        if not 1 <= k <= len(self.tables):
            raise ValueError(f"k = {k}; expected 1…{len(self.tables)} (stems in {self.tables.uri})")
        if per_track is not None and per_track < 1:
            raise ValueError(f"per_track = {per_track}; expected at least 1, or None")
        vector = self.embed_mix(mix, instrument)
        hits = self.tables.search(
            vector, k, where=where, exclude_tracks=exclude_tracks, per_track=per_track
        )
        starts = self.tables.best_starts(vector, [hit.row["key"] for hit in hits])
        columns = ("stem_id", "track_id", "corpus", "label", "duration_s", "audio")
        return [
            Candidate(
                rank=rank,
                score=hit.score,
                best_start_s=starts.get(hit.row["key"]),
                **{name: hit.row[name] for name in columns},
            )
            for rank, hit in enumerate(hits, start=1)
        ]

    def embed_mix(self, mix: Mix, instrument: str | None = None) -> np.ndarray:
        """The predicted embedding of the stem that a mix lacks: (dim,) float32, unit norm."""
        model = self.model
        waveform = read_mix(mix, model.rate_hz)
        chunks = _sounding_chunks(waveform, model.rate_hz, model.chunk_s)
        condition, classes = self._condition(MUSIC if instrument is None else instrument)
        device = _device(model)
        total = np.zeros(model.dim)
        for first in range(0, len(chunks), _BATCH_CHUNKS):
            batch = torch.from_numpy(np.stack(chunks[first : first + _BATCH_CHUNKS])).to(device)
            rows = None if condition is None else condition.to(device).expand(len(batch), -1)
            with torch.inference_mode():
                mel = model.log_mel(batch)
                vectors = model.query_vectors(mel, rows, classes.to(device).expand(len(batch)))
            total += vectors.double().sum(0).cpu().numpy()
        return unit_rows(total[None] / len(chunks), "the query")[0]

    def _condition(self, instrument: str) -> tuple[torch.Tensor | None, torch.Tensor]:
        if not instrument.strip():
            raise ValueError("the instrument is blank; name one, or leave it out")
        classes = torch.tensor(FOUR_CLASSES.index(four_class([instrument])))
        if self.model.condition_dim is None:
            return None, classes
        return torch.from_numpy(self._label_encoder.encode([instrument])), classes

    @cached_property
    def _label_encoder(self) -> LabelEncoder:
        encoder = build_label_encoder(self.model.label_encoder["name"])
        _check_encoder(self.model, encoder)
        return encoder


def nearest_labels(
    vector: np.ndarray, known: Mapping[str, np.ndarray], k: int = 3
) -> list[tuple[str, float]]:
    """The labels that a query's text is closest to: how the model will take it.

    Args:
        vector: (dim,) of the text, unit norm.
        known: (dim,) per text that the model has met in training, by the same label encoder.
        k: how many.

    Returns:
        (label, cosine), nearest first; equal ones in the order of the alphabet.
    """
    texts = sorted(known)
    if not texts:
        return []
    cosines = np.array([known[text] @ vector for text in texts], dtype=np.float64)
    best = np.argsort(-cosines, kind="stable")[:k]
    return [(texts[i], float(cosines[i])) for i in best]


def _tables(table: Any) -> StemTables:
    if isinstance(table, StemTables):
        return table
    if isinstance(table, (str, Path)):
        return StemTables(table)
    return StemTables(str(table.uri).rsplit("/", maxsplit=1)[0])  # a LanceDB table


def _check_encoder(model: EmbeddingModel, encoder: LabelEncoder) -> None:
    described = {"name": encoder.name, "dim": encoder.dim, "fingerprint": encoder.fingerprint}
    check_label_encoder(model, described)


def _sounding_chunks(waveform: np.ndarray, rate_hz: int, chunk_s: float) -> list[np.ndarray]:
    duration_s = len(waveform) / rate_hz
    if duration_s < MIN_MIX_S:
        raise ValueError(f"the mix lasts {duration_s:.2f} s; expected at least {MIN_MIX_S:.0f} s")
    size = round(chunk_s * rate_hz)
    intervals = active_intervals(waveform, rate_hz, ACTIVITY)
    starts = active_starts(intervals, len(waveform), size, rate_hz)
    if not starts:
        raise ValueError(
            f"the mix of {duration_s:.1f} s is silent (nothing of {MIN_ACTIVE_S} s reaches "
            f"{ACTIVITY.on_db:.0f} dB); give a mix that sounds"
        )
    return [waveform[start : start + size] for start in starts]


def _device(model: EmbeddingModel) -> torch.device:
    if isinstance(model, torch.nn.Module):
        tensors = [*model.parameters(), *model.buffers()]
        if tensors:
            return tensors[0].device
    return torch.device("cpu")
