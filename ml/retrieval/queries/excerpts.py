"""Found stems as files: of each the place to listen to, alone and with the mix.

A folder of excerpts holds ``01-<label>-<track>.wav`` (a chunk of the stem at its own rate, with
its channels), ``01-<label>-<track>-with-mix.wav`` (the mix from ``mix_start_s`` on plus that chunk,
sample by sample) and ``results.json``. Where a stem is *fitted*, the chunk is brought to the tempo
of the mix (and to its key, where asked), and both begin on a beat. All are 32-bit float WAV, so
that nothing is clipped or rounded; a preview above full scale is turned down as a whole, and
``preview_gain_db`` says so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from ml.artifacts import (
    ArtifactError,
    read_json,
    write_folder_aside,
    write_json,
)
from ml.audio.files import fit_channels
from ml.music.fit import Fit, stretched
from ml.retrieval.queries.candidates import Candidate
from ml.retrieval.queries.mix import Mix, mix_window
from ml.retrieval.queries.stem_files import stem_window
from ml.tracks import Stem

RESULTS_NAME = "results.json"
FORMAT_VERSION = 1
MADE_BY = "stems query --save"
_NAME_LENGTH = 40


@dataclass(frozen=True, kw_only=True)
class PlayedMix:
    """The mix that found stems are played with."""

    mix: Mix
    """What was asked with."""
    rate_hz: int
    """Of its arrays that come without a rate: the model's."""


def save_excerpts(
    folder: Path,
    candidates: Sequence[Candidate],
    stem_of: Callable[[Candidate], Stem],
    *,
    chunk_s: float,
    played: PlayedMix | None = None,
    fit_of: Callable[[Candidate], Fit] | None = None,
    about: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Write a folder of excerpts, aside and renamed; one that was written before is replaced.

    Args:
        folder: new, empty, or of an earlier call.
        candidates: what was found.
        stem_of: the files of a candidate.
        chunk_s: how long an excerpt is; shorter where the stem ends.
        played: the mix; None: no previews.
        fit_of: how a stem is played with the mix; None: as it is.
        about: what was asked, for ``results.json``.

    Returns:
        What ``results.json`` lists: the fields of each candidate, ``excerpt`` and ``preview`` (file
        names; null without a mix), ``preview_gain_db`` (0, or less where it was turned down) and
        ``fit`` (the fields of ``ml.music.fit.Fit``; null where nobody asked).

    Raises:
        ArtifactError: the folder holds something else.
        AudioError: a file of a stem or of the mix is gone or cannot be decoded.
    """
    folder = folder.resolve()
    check_folder(folder)
    with write_folder_aside(folder) as aside:
        rows = [
            _save(aside, c, stem_of(c), chunk_s, played, fit_of and fit_of(c)) for c in candidates
        ]
        written = {"made_by": MADE_BY, "format_version": FORMAT_VERSION, **about}
        write_json(aside / RESULTS_NAME, {**written, "candidates": rows})
    return rows


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds anything but excerpts.

    Raises:
        ArtifactError: names what it holds.
    """
    if not folder.exists():
        return
    advice = f"{MADE_BY} replaces only folders that it wrote; name a new folder"
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is a file; {advice}")
    held = {path.name for path in folder.iterdir()}
    if strange := sorted(held - _own_names(folder)):
        raise ArtifactError(f"{folder} holds {strange[0]} ({len(strange)} such files); {advice}")


def safe_name(*texts: str) -> str:
    """Make a file name that every system takes: letters, digits, ``_`` and single dashes."""
    parts = [re.sub(r"\W+", "-", text).strip("-_")[:_NAME_LENGTH].strip("-") for text in texts]
    return "-".join(part for part in parts if part)


def _save(
    folder: Path,
    candidate: Candidate,
    stem: Stem,
    chunk_s: float,
    played: PlayedMix | None,
    fit: Fit | None,
) -> dict[str, Any]:
    plan = fit or Fit(
        start_s=candidate.best_start_s or 0.0, mix_start_s=candidate.mix_start_s or 0.0
    )
    duration_s = min(chunk_s * plan.speed, candidate.duration_s - plan.start_s)
    audio, rate_hz = stem_window(stem, plan.start_s, duration_s)
    audio = stretched(audio, rate_hz, plan.speed, plan.semitones)
    name = f"{candidate.rank:02}-{safe_name(candidate.label, candidate.track_id)}"
    row = {
        **asdict(candidate),
        "excerpt": f"{name}.wav",
        "preview": None,
        "preview_gain_db": 0.0,
        "fit": fit and asdict(fit),
    }
    _write(folder / row["excerpt"], audio, rate_hz)
    if played is not None:
        mix = mix_window(
            played.mix,
            plan.mix_start_s,
            len(audio) / rate_hz,
            rate_hz=rate_hz,
            array_hz=played.rate_hz,
        )
        channels = max(mix.shape[1], audio.shape[1])
        total = fit_channels(mix, channels) + fit_channels(audio, channels)
        gain = 1 / max(1.0, float(np.abs(total).max(initial=0)))
        row["preview"] = f"{name}-with-mix.wav"
        row["preview_gain_db"] = round(20 * math.log10(gain), 2)
        _write(folder / row["preview"], total * np.float32(gain), rate_hz)
    return row


def _write(path: Path, audio: np.ndarray, rate_hz: int) -> None:
    soundfile.write(path, audio, rate_hz, subtype="FLOAT", format="WAV")


def _own_names(folder: Path) -> set[str]:
    """List the files that ``results.json`` says this module wrote; none if it is not ours."""
    if not (folder / RESULTS_NAME).is_file():
        return set()
    try:
        results = read_json(folder / RESULTS_NAME)
    except ArtifactError:
        return set()
    if not isinstance(results, dict) or results.get("made_by") != MADE_BY:
        return set()
    rows = [row for row in results.get("candidates") or () if isinstance(row, dict)]
    listed = {row.get(what) for row in rows for what in ("excerpt", "preview")}
    return {RESULTS_NAME, *(name for name in listed if name)}
