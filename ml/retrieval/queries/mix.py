"""A mix as people give it (file, array, several stems), as the chunks that a model looks at.

[query_vectors] What a model makes of the chunks of one mix or one stem, as a query needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ml.audio.activity import active_intervals
from ml.audio.chunks import MIN_ACTIVE_S, active_starts
from ml.audio.files import CONTAINER_SUFFIXES, AudioError, mix_parts, probe, read_audio, resample
from ml.audio.windows import read_window
from ml.retrieval.embeddings.files import unit_rows
from ml.retrieval.embeddings.model import EmbeddingModel, EncodesLabels
from ml.retrieval.embeddings.source import ACTIVITY

Part = str | Path | np.ndarray | tuple[np.ndarray, int]
"""A file; (samples,), (samples, channel) or (channel, samples) floats of full scale 1.0 at the
model's rate; or these with their rate in Hz. Of two axes the shorter one counts the channels."""


Mix = Part | list[Part]
"""One part, or a list of parts that begin together and are summed."""


MIN_MIX_S = 1.0
"""A shorter mix says too little; refused."""


MAX_WHOLE_S = 600.0
"""A longer mix is listened to in so many seconds, spread evenly over it."""


_MAX_CHANNELS = 32


_MARGIN_S = 1
"""What is read around a window, so that the filter of the resampler does not meet its edges."""


@dataclass(frozen=True, kw_only=True)
class MixChunks:
    """The chunks in which a mix sounds."""

    waveforms: np.ndarray
    """(chunk, samples) float32 mono; a mix shorter than a chunk is one short chunk."""
    start_s: np.ndarray
    """(chunk,) where each begins, ascending."""
    duration_s: float
    """Length of the mix."""


def read_chunks(mix: Mix, rate_hz: int, chunk_s: float, what: str = "mix") -> MixChunks:
    """The sounding chunks of the sum of all parts.

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
        found = _spread(parts, duration_s, rate_hz, chunk_s)
    else:
        waveform = mix_parts([_read(part, rate_hz) for part in parts])
        if (lasts_s := len(waveform) / rate_hz) < MIN_MIX_S:
            raise ValueError(
                f"the {what} lasts {lasts_s:.2f} s; expected at least {MIN_MIX_S:.0f} s"
            )
        found = _consecutive(waveform, rate_hz, chunk_s)
    if not len(found.waveforms):
        raise ValueError(
            f"the {what} of {found.duration_s:.1f} s is silent (nothing of {MIN_ACTIVE_S} s "
            f"reaches {ACTIVITY.on_db:.0f} dB); give one that sounds"
        )
    return found


def read_mix(mix: Mix, rate_hz: int) -> np.ndarray:
    """The sum of all parts, shorter ones padded with silence; never clipped.

    Args:
        mix: see ``Mix``.
        rate_hz: rate of the result, and of arrays that come without one.

    Returns:
        (samples,) float32 mono.

    Raises:
        AudioError: a file is missing or cannot be decoded.
        ValueError: an array is empty, not finite, of another shape or type; or there are no parts.
    """
    return mix_parts([_read(part, rate_hz) for part in _parts(mix, rate_hz)])


def mix_window(
    mix: Mix, start_s: float, duration_s: float, *, rate_hz: int, array_hz: int
) -> np.ndarray:
    """A piece of the sum of all parts, with channels.

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
    found = [_window(part, start_s, duration_s, rate_hz) for part in _parts(mix, array_hz)]
    total = np.zeros((round(duration_s * rate_hz), max(p.shape[1] for p in found)), np.float32)
    for part in found:
        total += part if part.shape[1] in (1, total.shape[1]) else part.mean(axis=1, keepdims=True)
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
    """(samples,) float32 mono at a rate."""
    if isinstance(part, Path):
        return read_audio(part, rate_hz=rate_hz)
    mono = part.samples.mean(axis=1, dtype=np.float64).astype(np.float32)
    return resample(mono, part.rate_hz, rate_hz)


def _consecutive(waveform: np.ndarray, rate_hz: int, chunk_s: float) -> MixChunks:
    size = round(chunk_s * rate_hz)
    intervals = active_intervals(waveform, rate_hz, ACTIVITY)
    starts = active_starts(intervals, len(waveform), size, rate_hz)
    chunks = [waveform[start : start + size] for start in starts]
    return MixChunks(
        waveforms=np.stack(chunks) if chunks else np.zeros((0, size), dtype=np.float32),
        start_s=np.array(starts) / rate_hz,
        duration_s=len(waveform) / rate_hz,
    )


def _spread(
    parts: Sequence[Path | _Array], duration_s: float, rate_hz: int, chunk_s: float
) -> MixChunks:
    """Sounding ones of evenly spread chunks, read one by one."""
    _refuse_long_containers(parts)
    places = np.linspace(0, duration_s - chunk_s, max(1, int(MAX_WHOLE_S / chunk_s)))
    size = round(chunk_s * rate_hz)
    chunks, starts = [], []
    for start_s in np.unique(np.floor(places)):
        windows = [_window(part, float(start_s), chunk_s, rate_hz) for part in parts]
        chunk = np.sum([window.mean(axis=1) for window in windows], axis=0, dtype=np.float32)
        if active_starts(active_intervals(chunk, rate_hz, ACTIVITY), size, size, rate_hz):
            chunks.append(chunk)
            starts.append(start_s)
    return MixChunks(
        waveforms=np.stack(chunks) if chunks else np.zeros((0, size), dtype=np.float32),
        start_s=np.array(starts),
        duration_s=duration_s,
    )


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
    """(samples, channel) float32 at a rate; silence where the part has nothing."""
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
    found = part.samples[first : first + samples].astype(np.float32)
    return np.pad(found, ((0, samples - len(found)), (0, 0)))


_BATCH_CHUNKS = 64


@dataclass(frozen=True, kw_only=True)
class ChunkVectors:
    """What a model made of each chunk."""

    start_s: np.ndarray
    """(chunk,) where each begins."""
    vectors: np.ndarray
    """(chunk, dim) float32, not of unit norm."""

    @property
    def mean(self) -> np.ndarray:
        """(dim,) float32, unit norm: what is searched with, as the corpora's queries are made.

        Raises:
            ValueError: it is zero or not finite.
        """
        return unit_rows(self.vectors.mean(axis=0, dtype=np.float64)[None], "the query")[0]


def takes_condition(model: EmbeddingModel) -> bool:
    """Whether the queries of a model take the vector of a text."""
    return isinstance(model, EncodesLabels) or model.condition_dim is not None


def takes_instrument(model: EmbeddingModel) -> bool:
    """Whether the queries of a model depend on the instrument."""
    if takes_condition(model):
        return True
    predictor = getattr(getattr(model, "config", None), "predictor", None)
    return getattr(predictor, "conditioning", None) == "class"


def query_vectors(
    model: EmbeddingModel, chunks: MixChunks, condition: np.ndarray | None, four_class: int
) -> ChunkVectors:
    """What the chunks of a mix ask for.

    Args:
        model: makes the queries.
        chunks: of the mix.
        condition: (width,) of the instrument; None: the model takes none.
        four_class: index into ``FOUR_CLASSES``, for models of that conditioning.
    """
    device = _device(model)
    row = None if condition is None else torch.from_numpy(condition)[None].to(device)
    classes = torch.tensor([four_class], device=device)

    def vectors_of_batch(mel: Tensor) -> Tensor:
        rows = None if row is None else row.expand(len(mel), -1)
        return model.query_vectors(mel, rows, classes.expand(len(mel)))

    return _vectors(model, chunks, vectors_of_batch, device)


def stem_vectors(model: EmbeddingModel, chunks: MixChunks) -> ChunkVectors:
    """What the gallery would hold of the chunks of a stem."""
    return _vectors(model, chunks, model.gallery_vectors, _device(model))


def _vectors(
    model: EmbeddingModel,
    chunks: MixChunks,
    vectors_of_batch: Callable[[Tensor], Tensor],
    device: torch.device,
) -> ChunkVectors:
    made = []
    for first in range(0, len(chunks.waveforms), _BATCH_CHUNKS):
        batch = torch.from_numpy(chunks.waveforms[first : first + _BATCH_CHUNKS]).to(device)
        with torch.inference_mode():
            made.append(vectors_of_batch(model.log_mel(batch)).float().cpu().numpy())
    return ChunkVectors(start_s=chunks.start_s, vectors=np.concatenate(made))


def _device(model: EmbeddingModel) -> torch.device:
    if isinstance(model, torch.nn.Module):
        tensors = [*model.parameters(), *model.buffers()]
        if tensors:
            return tensors[0].device
    return torch.device("cpu")
