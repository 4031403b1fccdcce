"""Sample queries to listen to: the mix, and with it the stem left out and those that were found.

The samples are spread evenly over the ranks of all queries, from the best to the worst, so that
they show what the model does and not what it does well. Mix and stem are one sound, so that they
start and stay together in any browser, without a script.
"""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ml.artifacts import DataLayout
from ml.audio.files import AudioError, read_stem
from ml.retrieval.embeddings.files import read_embeddings, vectors_of
from ml.retrieval.embeddings.source import read_track
from ml.tracks import Stem, Track

RATE_HZ = 16_000
EXCERPT_S = 8.0
FOUND = 3
"""Answers shown per query."""
_LEVEL_RMS = 0.1
_PEAK = 0.95


@dataclass(frozen=True, kw_only=True)
class Excerpt:
    """A few seconds of sound, and what it is."""

    name: str
    track_id: str
    audio: str | None
    """An MP3 as a data URI, of a stem together with the mix; None when it could not be read."""
    remarks: tuple[str, ...] = ()
    """What of the right answer it has: "right stem", "same song", "right instrument"."""
    score: float | None = None
    """Cosine with the query."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One query and its first answers."""

    label: str
    """What was asked for."""
    rank: int
    n_gallery: int
    mix: Excerpt
    truth: Excerpt
    found: Sequence[Excerpt]
    problem: str | None
    """Why there is no sound."""


def spread_over_ranks(queries: Sequence[Mapping[str, Any]], n: int) -> list[Mapping[str, Any]]:
    """Choose ``n`` queries evenly in the order of their ranks, of different tracks if possible.

    Args:
        queries: with ``rank``, ``stem_id`` and ``track_id``.
        n: how many; all when there are fewer.
    """
    ordered = sorted(queries, key=lambda query: (query["rank"], query["stem_id"]))
    if len(ordered) <= n:
        return ordered
    chosen: list[Mapping[str, Any]] = []
    edges = np.linspace(0, len(ordered), n + 1).round().astype(int)
    for first, last in itertools.pairwise(edges):
        used = {query["track_id"] for query in chosen}
        part = ordered[first:last]
        chosen.append(next((q for q in part if q["track_id"] not in used), part[0]))
    return chosen


def sample_queries(
    layout: DataLayout,
    corpus: str,
    model_id: str,
    queries: Sequence[Mapping[str, Any]],
    *,
    conditioning: str,
    n: int = 6,
) -> list[Sample]:
    """Make samples of what a model answers.

    Args:
        layout: where embeddings and ``corpus_tracks`` lie.
        corpus: its name.
        model_id: whose embeddings.
        queries: rows of ``queries.parquet`` of this model.
        conditioning: of these queries.
        n: how many samples.

    Raises:
        ArtifactError: embeddings or ``corpus_tracks`` are missing. Audio that has gone is not an
            error: the sample says so.
    """
    from ml.corpora.table import read_corpus_tracks, tracks_of_table

    embeddings = read_embeddings(layout, model_id, corpus, conditioning)
    gallery = embeddings.gallery.drop_columns(["vector"]).to_pylist()
    vectors = vectors_of(embeddings.gallery)
    places = {stem: i for i, stem in enumerate(embeddings.queries["stem_id"].to_pylist())}
    query_vectors = vectors_of(embeddings.queries)
    tracks = {t.track_id: t for t in tracks_of_table(read_corpus_tracks(layout, corpus))}
    samples = []
    for query in spread_over_ranks(queries, n):
        scores = vectors @ query_vectors[places[query["stem_id"]]]
        nearest = np.argsort(-scores, kind="stable")[:FOUND]
        found = [(gallery[i], float(scores[i])) for i in nearest]
        sample = _silent_sample(query, gallery, found)
        try:
            samples.append(_with_audio(sample, query, [row for row, _ in found], tracks))
        except AudioError as error:
            samples.append(replace(sample, problem=str(error)))
    return samples


def _silent_sample(
    query: Mapping[str, Any],
    gallery: Sequence[Mapping[str, Any]],
    found: Sequence[tuple[Mapping[str, Any], float]],
) -> Sample:
    truth = next(row for row in gallery if row["stem_id"] == query["stem_id"])
    return Sample(
        label=query["label"],
        rank=query["rank"],
        n_gallery=len(gallery),
        mix=Excerpt(name="all other stems", track_id=query["track_id"], audio=None),
        truth=Excerpt(name=_name(truth), track_id=truth["track_id"], audio=None),
        found=[
            Excerpt(
                name=_name(row),
                track_id=row["track_id"],
                audio=None,
                remarks=_remarks(row, truth),
                score=score,
            )
            for row, score in found
        ],
        problem=None,
    )


def _name(row: Mapping[str, Any]) -> str:
    return " > ".join(row["labels"]) or "unlabelled"


def _remarks(row: Mapping[str, Any], truth: Mapping[str, Any]) -> tuple[str, ...]:
    if row["stem_id"] == truth["stem_id"]:
        return ("the right stem",)
    remarks = (
        ("same song", row["track_id"] == truth["track_id"]),
        ("right instrument", bool(truth["labels"]) and row["label"] == truth["label"]),
    )
    return tuple(text for text, applies in remarks if applies)


def _with_audio(
    sample: Sample,
    query: Mapping[str, Any],
    found: Sequence[Mapping[str, Any]],
    tracks: Mapping[str, Track],
) -> Sample:
    """Add the sound.

    Raises:
        AudioError: a file has gone, or is no longer in the corpus.
    """
    track = tracks.get(query["track_id"])
    stem_ids = [stem.stem_id for stem in track.stems] if track else []
    if track is None or query["stem_id"] not in stem_ids:
        raise AudioError(f"stem {query['stem_id']} is no longer in the corpus; embed it again")
    audio = read_track(track, RATE_HZ)
    place = stem_ids.index(query["stem_id"])
    samples = round(EXCERPT_S * RATE_HZ)
    start = loudest_start(audio.stems[place], samples)
    mix = audio.mix_chunk(place, start, samples)
    stems = {stem.stem_id: stem for t in tracks.values() for stem in t.stems}
    sounds = [_found_sound(row, track, start, stems) for row in found]
    return replace(
        sample,
        mix=replace(sample.mix, audio=mp3_uri(mix)),
        truth=replace(
            sample.truth, audio=mp3_uri(together(mix, audio.stem_chunk(place, start, samples)))
        ),
        found=[
            replace(excerpt, audio=mp3_uri(together(mix, sound)))
            for excerpt, sound in zip(sample.found, sounds, strict=True)
        ],
    )


def _found_sound(
    row: Mapping[str, Any], track: Track, start: int, stems: Mapping[str, Stem]
) -> np.ndarray:
    """Read what was found where it is loudest; in the query's own song at the query's time."""
    if row["stem_id"] not in stems:
        raise AudioError(f"stem {row['stem_id']} is no longer in the corpus; embed it again")
    waveform = read_stem(stems[row["stem_id"]], rate_hz=RATE_HZ)
    samples = round(EXCERPT_S * RATE_HZ)
    if row["track_id"] != track.track_id:
        start = loudest_start(waveform, samples)
    return waveform[start : start + samples]


def loudest_start(waveform: np.ndarray, samples: int) -> int:
    """Find where the loudest excerpt of ``samples`` begins, in steps of half a second."""
    step = RATE_HZ // 2
    if len(waveform) <= samples:
        return 0
    energy = np.concatenate([[0.0], np.cumsum(waveform.astype(np.float64) ** 2)])
    starts = np.arange(0, len(waveform) - samples + 1, step)
    return int(starts[np.argmax(energy[starts + samples] - energy[starts])])


def together(mix: np.ndarray, stem: np.ndarray) -> np.ndarray:
    """Let a stem sound with a mix, both equally loud: (samples,) of the longer one."""
    both = np.zeros(max(len(mix), len(stem)), dtype=np.float32)
    for sound in (mix, stem):
        both[: len(sound)] += sound / (_rms(sound) or 1.0)
    return both


def _rms(waveform: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64)))) if len(waveform) else 0.0


def mp3_uri(waveform: np.ndarray) -> str:
    """Encode (samples,) at ``RATE_HZ`` as a data URI that browsers play, at an even loudness."""
    import soundfile

    rms = _rms(waveform)
    peak = float(np.abs(waveform).max(initial=0.0))
    gain = min(_LEVEL_RMS / rms, _PEAK / peak) if rms else 1.0
    buffer = io.BytesIO()
    soundfile.write(
        buffer,
        (waveform * gain).astype(np.float32),
        RATE_HZ,
        format="MP3",
        subtype="MPEG_LAYER_III",
    )
    return "data:audio/mpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
