"""A few tracks to look at: log-mel, activations, decoded beats and annotation of some seconds.

``examples.npz`` beside the scores; its arrays are named ``<example>/<what>``, with the model behind
``activation`` and ``beats``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ml.artifacts import write_aside
from ml.beats.activations import CorpusActivations
from ml.beats.dbn import DBNBeatDecoder
from ml.beats.probe import FPS

EXAMPLES = "examples.npz"
EXCERPT_S = 8.0
_START_S = 8.0


@dataclass(frozen=True, kw_only=True, eq=False)
class BeatExample:
    """Some seconds of a track."""

    track_id: str
    start_s: float
    """Where the excerpt begins in its track; all times below count from the track's start."""
    mel: np.ndarray | None
    """(mel_frame, mel_bin), 100 frames per second."""
    activations: Mapping[str, np.ndarray]
    """By model: (frame,), 50 frames per second."""
    beats: Mapping[str, np.ndarray]
    """By model: (beat,) times in s by the dynamic Bayesian network."""
    reference: np.ndarray
    """(beat,) annotated times in s."""


def write_examples(
    corpus: CorpusActivations, places: Sequence[int], models: Sequence[str], folder: Path
) -> None:
    """Write excerpts of the tracks at some places, with the beats that some models find there."""
    decoder = DBNBeatDecoder(FPS)
    arrays: dict[str, np.ndarray] = {}
    for number, place in enumerate(places):
        track = corpus.tracks[place]
        length_s = track.frames / FPS
        # Whole seconds: both frame rates begin at the same time.
        start_s = float(math.floor(min(_START_S, max(0.0, length_s - EXCERPT_S))))
        stop_s = start_s + EXCERPT_S
        own = {"track_id": np.array(track.track_id), "start_s": np.array(start_s)}
        own["reference"] = _between(track.beats, start_s, stop_s)
        mel = corpus.log_mel(place)
        if mel is not None:
            first, stop = (round(corpus.mel_fps * time_s) for time_s in (start_s, stop_s))
            own["mel"] = mel[first:stop].astype(np.float16)
        activations = corpus.predict(place)
        for model in models:
            activation = activations[model].values
            excerpt = activation[round(FPS * start_s) : round(FPS * stop_s)]
            own[f"activation/{model}"] = excerpt.astype(np.float16)
            own[f"beats/{model}"] = _between(decoder(activation), start_s, stop_s)
        arrays |= {f"{number}/{name}": values for name, values in own.items()}
    with write_aside(folder / EXAMPLES) as aside, aside.open("wb") as file:
        np.savez_compressed(file, **arrays)  # pyright: ignore[reportArgumentType]


def read_examples(folder: Path) -> list[BeatExample]:
    """Read the examples beside the scores of a corpus; none where the file is missing."""
    if not (folder / EXAMPLES).is_file():
        return []
    with np.load(folder / EXAMPLES) as file:
        arrays = {name: file[name] for name in file.files}
    numbers = sorted({int(name.partition("/")[0]) for name in arrays})
    return [_example({n: a for n, a in arrays.items() if n.startswith(f"{i}/")}) for i in numbers]


def _example(arrays: Mapping[str, np.ndarray]) -> BeatExample:
    own = {name.partition("/")[2]: values for name, values in arrays.items()}

    def by_model(kind: str) -> dict[str, np.ndarray]:
        return {n.partition("/")[2]: a for n, a in own.items() if n.startswith(f"{kind}/")}

    return BeatExample(
        track_id=str(own["track_id"]),
        start_s=float(own["start_s"]),
        mel=own.get("mel"),
        activations=by_model("activation"),
        beats=by_model("beats"),
        reference=own["reference"],
    )


def _between(times: np.ndarray, start_s: float, stop_s: float) -> np.ndarray:
    return times[(times >= start_s) & (times < stop_s)]
