"""A mix as people give it (file, array, several stems): its chunks, and what a model makes of them.

``read_chunks`` → ``MixChunks`` (waveforms) → ``predict_chunks`` → ``ChunkVectors``. An example stem
goes the same way, through ``stem_vectors``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ml.audio.activity import MIN_ACTIVE_S
from ml.audio.files import (
    CONTAINER_SUFFIXES,
    AudioError,
    mix_parts,
    probe,
    read_audio,
    read_window,
    resample,
)
from ml.labels.taxonomy import FOUR_CLASSES, four_class
from ml.music.fit import Music, hear
from ml.music.tempo import RATE_HZ
from ml.retrieval.embeddings.model import Conditions, EmbeddingModel
from ml.retrieval.embeddings.passes import ChunkRows, EmbeddingPass
from ml.retrieval.embeddings.source import ACTIVITY, Chunk, sounding_chunks

MIN_MIX_S = 1.0
"""A shorter mix says too little; refused."""
MAX_WHOLE_S = 600.0
"""A longer mix is listened to in so many seconds, spread evenly over it."""
_ASKED = "asked"
"""Names the one conditioning of a person's query."""
_MAX_CHANNELS = 32
_MARGIN_S = 1
"""What is read around a window, so that the filter of the resampler does not meet its edges."""

Part = str | Path | np.ndarray | tuple[np.ndarray, int]
"""A file; (samples,), (samples, channel) or (channel, samples) floats of full scale 1.0 at the
model's rate; or these with their rate in Hz. Of two axes the shorter one counts the channels."""
Mix = Part | list[Part]
"""One part, or a list of parts that begin together and are summed."""


@dataclass(frozen=True, kw_only=True)
class MixChunks:
    """The chunks in which a mix sounds."""

    waveforms: np.ndarray
    """(chunk, samples) float32 mono; a mix shorter than a chunk is one short chunk."""
    start_s: np.ndarray
    """(chunk,) where each begins, ascending."""
    duration_s: float
    """Length of the mix."""


@dataclass(frozen=True, kw_only=True)
class ChunkVectors:
    """What a model made of each chunk."""

    start_s: np.ndarray
    """(chunk,) where each begins."""
    vectors: np.ndarray
    """(chunk, dim) float32, not of unit norm."""
    mean: np.ndarray
    """(dim,) float32, unit norm: made of the chunks as a corpus's queries are."""
    length_s: float
    """How long each is: that of the model, or of a shorter mix."""


def read_chunks(mix: Mix, rate_hz: int, chunk_s: float, what: str = "mix") -> MixChunks:
    """Read the sounding chunks of the sum of all parts.

    Chunks are consecutive and the last one is aligned to the end, as in the corpora.

    Differs: of a mix over ``MAX_WHOLE_S`` only so many seconds are read, in chunks that begin at
    whole seconds spread evenly over it, each judged for silence alone; memory and time stay those
    of ten minutes.

    Args:
        mix: see ``Mix``.
        rate_hz: rate of the result, and of arrays that come without one.
        chunk_s: length of a chunk.
        what: what errors call it.

    Raises:
        AudioError: a file is missing or cannot be decoded.
        ValueError: the mix is silent or shorter than ``MIN_MIX_S``; an array is empty, not finite,
            of another shape or type; or there are no parts.
    """
    parts = _parts(mix, rate_hz)
    duration_s = max(_duration_s(part) for part in parts)
    if duration_s > MAX_WHOLE_S:
        chunks = _spread(parts, duration_s, rate_hz, chunk_s)
    else:
        waveform = mix_parts([_read(part, rate_hz) for part in parts])
        if (lasts_s := len(waveform) / rate_hz) < MIN_MIX_S:
            raise ValueError(
                f"the {what} lasts {lasts_s:.2f} s; expected at least {MIN_MIX_S:.0f} s"
            )
        chunks = _stacked(sounding_chunks(waveform, rate_hz, chunk_s), lasts_s)
    if not len(chunks.waveforms):
        raise ValueError(
            f"the {what} of {chunks.duration_s:.1f} s is silent (nothing of {MIN_ACTIVE_S} s "
            f"reaches {ACTIVITY.on_db:.0f} dB); give one that sounds"
        )
    return chunks


def hear_mix(mix: Mix, array_hz: int) -> Music:
    """Find tempo, beats and key of the sum of all parts, the whole of it.

    Args:
        mix: see ``Mix``.
        array_hz: rate of arrays that come without one.

    Raises:
        AudioError: a file is missing or cannot be decoded.
        ValueError: as ``read_chunks``.
    """
    return hear(mix_parts([_read(part, RATE_HZ) for part in _parts(mix, array_hz)]))


def predict_chunks(
    model: EmbeddingModel, chunks: MixChunks, instrument: str, vector: np.ndarray | None
) -> ChunkVectors:
    """Predict the stem that a mix lacks, chunk by chunk.

    Args:
        model: makes the queries.
        chunks: of the mix.
        instrument: what the stem should play.
        vector: (condition_dim,) of these words; None: the model takes none, or encodes them itself.
    """
    conditions = Conditions(
        texts=(instrument,),
        vectors=None if vector is None else vector[None],
        classes=np.array([FOUR_CLASSES.index(four_class([instrument]))]),
    )
    run = EmbeddingPass([model], {_ASKED: conditions}, precision="fp32")
    run.add_mix(0, zip(chunks.start_s, chunks.waveforms, strict=True))
    run.finish()
    return _chunk_vectors(run.queries(model, _ASKED), chunks, model)


def stem_vectors(model: EmbeddingModel, chunks: MixChunks) -> ChunkVectors:
    """Embed the chunks of a stem as the gallery holds them."""
    run = EmbeddingPass([model], precision="fp32")
    run.add_stem(0, zip(chunks.start_s, chunks.waveforms, strict=True))
    run.finish()
    return _chunk_vectors(run.gallery(model), chunks, model)


def _chunk_vectors(rows: ChunkRows, chunks: MixChunks, model: EmbeddingModel) -> ChunkVectors:
    mean = rows.stem_vectors("the query")[1][0]
    length_s = chunks.waveforms.shape[1] / model.rate_hz
    return ChunkVectors(start_s=rows.start_s, vectors=rows.vectors, mean=mean, length_s=length_s)


def mix_window(
    mix: Mix, start_s: float, duration_s: float, *, rate_hz: int, array_hz: int
) -> np.ndarray:
    """Read a piece of the sum of all parts, with channels.

    Args:
        mix: see ``Mix``.
        start_s: where the piece begins.
        duration_s: how long it is; silence behind the end of the mix.
        rate_hz: rate of the result.
        array_hz: rate of arrays that come without one.

    Returns:
        (samples, channel) float32, ``round(duration_s * rate_hz)`` samples; as many channels as the
        part with the most, mono parts in all of them.

    Raises:
        AudioError: a file is missing or cannot be decoded.
        ValueError: as ``read_chunks``.
    """
    pieces = [_window(part, start_s, duration_s, rate_hz) for part in _parts(mix, array_hz)]
    total = np.zeros((round(duration_s * rate_hz), max(p.shape[1] for p in pieces)), np.float32)
    for piece in pieces:
        is_added = piece.shape[1] in (1, total.shape[1])
        total += piece if is_added else piece.mean(axis=1, keepdims=True)
    return total


@dataclass(frozen=True, kw_only=True)
class _Array:
    """A checked array."""

    samples: np.ndarray
    """(samples, channel)"""
    rate_hz: int


def _parts(mix: Mix, rate_hz: int) -> list[Path | _Array]:
    parts = mix if isinstance(mix, list) else [mix]
    if not parts:
        raise ValueError("the mix is an empty list; expected at least one file or array")
    return [Path(p) if isinstance(p, (str, Path)) else _array(p, rate_hz) for p in parts]


def _array(part: Any, rate_hz: int) -> _Array:
    array, from_hz = part if isinstance(part, tuple) and len(part) == 2 else (part, rate_hz)
    if isinstance(from_hz, bool) or not isinstance(from_hz, (int, float, np.number)):
        raise ValueError(
            f"the mix has a rate of type {type(from_hz).__name__}; expected (array, rate in Hz), "
            f"or a list of parts to sum"
        )
    if not (from_hz > 0 and float(from_hz).is_integer()):
        raise ValueError(f"the mix has a rate of {from_hz} Hz; expected a whole number above 0")
    array = np.asarray(array)
    is_audio = array.ndim in (1, 2) and array.size and np.issubdtype(array.dtype, np.floating)
    if not is_audio or (array.ndim == 2 and min(array.shape) > _MAX_CHANNELS):
        raise ValueError(
            f"the mix is an array of {array.dtype} with shape {array.shape}; expected floats of "
            f"full scale 1.0, shape (samples,), (samples, channel) or (channel, samples) with at "
            f"most {_MAX_CHANNELS} channels"
        )
    if not np.isfinite(array).all():
        raise ValueError("the mix holds NaN or infinite samples; export it again")
    columns = array[:, None] if array.ndim == 1 else array
    columns = columns if columns.shape[0] >= columns.shape[1] else columns.T
    return _Array(samples=columns, rate_hz=int(from_hz))


def _duration_s(part: Path | _Array) -> float:
    if isinstance(part, _Array):
        return len(part.samples) / part.rate_hz
    return probe(part).duration_s


def _read(part: Path | _Array, rate_hz: int) -> np.ndarray:
    """Read (samples,) float32 mono at a rate."""
    if isinstance(part, Path):
        return read_audio(part, rate_hz=rate_hz)
    mono = part.samples.mean(axis=1, dtype=np.float64).astype(np.float32)
    return resample(mono, part.rate_hz, rate_hz)


def _stacked(chunks: Sequence[Chunk], duration_s: float) -> MixChunks:
    waveforms = [waveform for _, waveform in chunks]
    return MixChunks(
        waveforms=np.stack(waveforms) if waveforms else np.zeros((0, 0), dtype=np.float32),
        start_s=np.array([start_s for start_s, _ in chunks]),
        duration_s=duration_s,
    )


def _spread(
    parts: Sequence[Path | _Array], duration_s: float, rate_hz: int, chunk_s: float
) -> MixChunks:
    """Read evenly spread chunks one by one and keep those that sound."""
    _refuse_long_containers(parts)
    places = np.linspace(0, duration_s - chunk_s, max(1, int(MAX_WHOLE_S / chunk_s)))
    chunks: list[Chunk] = []
    for start_s in np.unique(np.floor(places)):
        windows = [_window(part, float(start_s), chunk_s, rate_hz) for part in parts]
        chunk = np.sum([window.mean(axis=1) for window in windows], axis=0, dtype=np.float32)
        if sounding_chunks(chunk, rate_hz, chunk_s):
            chunks.append((start_s, chunk))
    return _stacked(chunks, duration_s)


def _refuse_long_containers(parts: Sequence[Path | _Array]) -> None:
    for part in parts:
        if (
            isinstance(part, Path)
            and part.suffix.lower() in CONTAINER_SUFFIXES
            and (lasts_s := probe(part).duration_s) > MAX_WHOLE_S
        ):
            raise AudioError(
                f"{part} lasts {lasts_s / 60:.0f} min; a file of its kind may last "
                f"{MAX_WHOLE_S / 60:.0f} min; convert it to wav or flac"
            )


def _window(part: Path | _Array, start_s: float, duration_s: float, rate_hz: int) -> np.ndarray:
    """Read (samples, channel) float32 at a rate; silence where the part has nothing."""
    begin_s = max(0.0, np.floor(start_s) - _MARGIN_S)
    length_s = start_s - begin_s + duration_s + _MARGIN_S
    if isinstance(part, Path):
        audio, from_hz = read_window(part, begin_s, length_s)
    else:
        audio, from_hz = _cut(part, begin_s, length_s), part.rate_hz
    columns = [resample(np.ascontiguousarray(c), from_hz, rate_hz) for c in audio.T]
    first, samples = round((start_s - begin_s) * rate_hz), round(duration_s * rate_hz)
    return np.stack(columns, axis=1)[first : first + samples]


def _cut(part: _Array, start_s: float, duration_s: float) -> np.ndarray:
    first, samples = round(start_s * part.rate_hz), round(duration_s * part.rate_hz)
    piece = part.samples[first : first + samples].astype(np.float32)
    return np.pad(piece, ((0, samples - len(piece)), (0, 0)))
