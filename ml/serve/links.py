"""Conversions from what is known inside to what clients see, with links to its audio."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from ml.retrieval.queries.candidates import Candidate
from ml.serve.catalog import TrackStems
from ml.serve.mixes import ServedMix
from ml.serve.schemas import CandidateInfo, MixInfo, StemSummary, TrackSummary, Waveform
from ml.serve.sounds import Sound


def waveform_info(sound: Sound) -> Waveform:
    """Describe a sound at a glance."""
    return Waveform(
        duration_s=sound.duration_s, peaks=list(sound.peaks), served_gain=sound.served_gain
    )


def stem_summary(row: Mapping[str, Any]) -> StemSummary:
    """Describe a row of the table in a few words."""
    return StemSummary(**{name: row[name] for name in StemSummary.model_fields})


def track_summary(track: TrackStems) -> TrackSummary:
    """Describe a track with its stems."""
    return TrackSummary(
        corpus=track.corpus,
        track_id=track.track_id,
        split=track.split,
        duration_s=track.duration_s,
        stems=[stem_summary(row) for row in track.rows],
    )


def mix_info(mix: ServedMix) -> MixInfo:
    """Describe a mix with its waveform."""
    return MixInfo(
        id=mix.id,
        name=mix.name,
        waveform=waveform_info(mix.sound),
        audio=f"/api/mixes/{mix.id}/audio",
        corpus=mix.track and mix.track.corpus,
        track_id=mix.track and mix.track.track_id,
        left_out=[stem_summary(row) for row in mix.left_out],
    )


def candidate_info(candidate: Candidate) -> CandidateInfo:
    """Describe a candidate with its links; where its files lie stays here."""
    base = f"/api/stems/{quote(candidate.key, safe='')}"
    fields = set(CandidateInfo.model_fields) - {"audio", "peaks", "file"}
    return CandidateInfo(
        **{name: getattr(candidate, name) for name in fields},
        audio=f"{base}/audio",
        peaks=f"{base}/peaks",
        file=f"{base}/file",
    )
