"""The mixes that clients ask with: uploads, and tracks of the table with stems left out."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from starlette.exceptions import HTTPException

from ml.artifacts import fingerprint
from ml.audio.files import resample
from ml.music.fit import Music
from ml.retrieval.queries.mix import hear_mix, read_chunks
from ml.retrieval.queries.retriever import Retrievers
from ml.retrieval.queries.stem_files import StemFiles
from ml.serve.catalog import TrackStems
from ml.serve.limits import ServeLimits
from ml.serve.sounds import PLAY_RATE_HZ, QUERY_RATE_HZ, Sound, SoundCache, sum_sounds, write_sound
from ml.serve.stem_audio import read_sound
from ml.serve.uploads import Decoders, Upload


@dataclass(frozen=True, kw_only=True)
class ServedMix:
    """A mix that can be asked with and heard."""

    id: str
    """Of its content, 24 hexadecimal digits."""
    name: str
    """What people call it."""
    sound: Sound
    wav: Path
    """What is played."""
    npy: Path
    """What queries are made of: (samples,) float32 at ``QUERY_RATE_HZ``."""
    track: TrackStems | None = None
    """Where it comes from; None: an upload."""
    left_out: tuple[Mapping[str, Any], ...] = ()
    """Rows of the track's stems that it lacks."""
    music: Music = field(default_factory=Music)
    """Its tempo, beats and key."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """Its files."""
        return self.wav, self.npy

    def waveform(self) -> tuple[np.ndarray, int]:
        """Read (samples,) float32 and its rate in Hz.

        Raises:
            HTTPException: it was dropped meanwhile.
        """
        try:
            return np.load(self.npy), QUERY_RATE_HZ
        except FileNotFoundError:
            raise _dropped(self.id) from None


class Mixes:
    """Makes mixes and keeps the newest of them.

    Args:
        folder: where their files go.
        files: finds the files of stems.
        limits: how many, how large.
        retrievers: whose model must be able to use a mix; it cannot use silence, for one.
    """

    def __init__(
        self,
        folder: Path,
        files: StemFiles,
        limits: ServeLimits,
        retrievers: Retrievers,
    ):
        self._folder, self._files, self._limits = folder, files, limits
        self._retrievers, self._decoders = retrievers, Decoders(limits)
        self._kept: SoundCache[ServedMix] = SoundCache(limits.mixes, limits.mix_bytes)

    def close(self) -> None:
        """End what decodes."""
        self._decoders.close()

    def get(self, mix_id: str) -> ServedMix:
        """Look a mix up by its id.

        Raises:
            HTTPException: there is none, or it was dropped for newer ones.
        """
        mix = self._kept.get(mix_id)
        if mix is None:
            raise _dropped(mix_id)
        return mix

    def of_upload(self, upload: Upload, name: str) -> ServedMix:
        """Make the mix that an upload holds.

        Raises:
            HTTPException: it cannot be decoded, is too long or takes too long.
            ValueError: no query could use it.
        """
        mix_id = upload.digest[:24]
        if (kept := self._kept.get(mix_id)) is not None:
            return kept
        wav, npy = self._new_paths()
        sound = self._decoders.decode(upload.path, wav, npy, name)
        return self._keep(ServedMix(id=mix_id, name=name, sound=sound, wav=wav, npy=npy))

    def of_track(self, track: TrackStems, leave_out: Sequence[str]) -> ServedMix:
        """Sum the stems of a track but some.

        Args:
            track: whose stems.
            leave_out: keys of those that are left out.

        Raises:
            HTTPException: a key is of another track, nothing is left, or it is too long.
            AudioError: a file of the corpus cannot be read.
            ValueError: no query could use it.
        """
        rows = _remaining(track, leave_out)
        if track.duration_s > self._limits.mix_s:
            raise HTTPException(
                422,
                f"track {track.track_id} lasts {track.duration_s:.0f} s; expected at most "
                f"{self._limits.mix_s:.0f} s; take a shorter one",
            )
        mix_id = fingerprint([track.corpus, sorted(row["key"] for row in rows)])[:24]
        if (kept := self._kept.get(mix_id)) is not None:
            return kept
        sound = sum_sounds(read_sound(self._files.stem(row)) for row in rows)
        wav, npy = self._new_paths()
        mono = sound.mean(axis=1, dtype=np.float32)
        np.save(npy, resample(mono, PLAY_RATE_HZ, QUERY_RATE_HZ))
        mix = ServedMix(
            id=mix_id,
            name=track.track_id,
            sound=write_sound(sound, wav),
            wav=wav,
            npy=npy,
            track=track,
            left_out=tuple(row for row in track.rows if row not in rows),
        )
        return self._keep(mix)

    def _keep(self, mix: ServedMix) -> ServedMix:
        try:
            model = self._retrievers.current().model
            read_chunks(mix.waveform(), model.rate_hz, model.chunk_s)
            mix = replace(mix, music=hear_mix(mix.waveform(), QUERY_RATE_HZ))
        except ValueError:
            for path in mix.paths:
                path.unlink()
            raise
        return self._kept.put(mix.id, mix)

    def _new_paths(self) -> tuple[Path, Path]:
        name = f"mix-{secrets.token_hex(8)}"
        return self._folder / f"{name}.wav", self._folder / f"{name}.npy"


def _remaining(track: TrackStems, leave_out: Sequence[str]) -> list[Mapping[str, Any]]:
    known = {row["key"] for row in track.rows}
    foreign = [key for key in leave_out if key not in known]
    if foreign:
        raise HTTPException(
            422,
            f"stem {foreign[0][:200]!r} is none of track {track.track_id}; expected keys of "
            f"/api/tracks",
        )
    rows = [row for row in track.rows if row["key"] not in set(leave_out)]
    if not rows:
        sentence = f"no stem of track {track.track_id} is left for the mix; leave fewer out"
        raise HTTPException(422, sentence)
    return rows


def _dropped(mix_id: str) -> HTTPException:
    return HTTPException(404, f"no mix {mix_id!r} is kept here (any more); send it again")
