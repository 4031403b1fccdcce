"""Beats of any recording: audio → activation → beat times, and clicks to hear them by."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ml import kinds
from ml.artifacts import ArtifactError, DataLayout, write_aside
from ml.beats.dbn import DBNBeatDecoder
from ml.beats.features import FeatureConfig, encoder_input, step_count, track_features
from ml.beats.probe import FPS
from ml.beats.probes import ALL, StoredProbe, read_probes
from ml.models.stem_jepa import StemJepa

_CLICK_HZ, _CLICK_S, _CLICK_LEVEL = 1500.0, 0.04, 0.5
_PEAK = 0.99


class BeatTracker:
    """A frozen encoder with its probe and a decoder.

    Args:
        model: the encoder's model, loaded.
        probe: trained on its features.
        config: how recordings are cut for the encoder.
    """

    def __init__(self, model: StemJepa, probe: StoredProbe, config: FeatureConfig | None = None):
        self.rate_hz = model.rate_hz
        self._input = encoder_input(model, (probe.layer,))
        self._probe = probe
        self._config = config or FeatureConfig()
        self._decoder = DBNBeatDecoder(FPS)

    def activation(self, waveform: np.ndarray) -> np.ndarray:
        """Compute how much each frame of 20 ms is a beat.

        Args:
            waveform: (samples,) float32 mono at ``rate_hz``, of any length above 0.

        Returns:
            (frame,) float64, 0…1; frame n is at n / 50 s.
        """
        probes = self._probe.probe.linear.out_features
        steps = step_count(self._input, len(waveform))
        frames = min(steps * probes, max(1, round(len(waveform) / self.rate_hz * FPS)))
        parts = [
            self._probe.probe.activation(layers[self._probe.layer].numpy(), stop - first)
            for _, part, layers in track_features([self._input], waveform, self._config)
            for first, stop in [(part.start * probes, min(part.stop * probes, frames))]
            if stop > first
        ]
        return np.concatenate(parts)

    def __call__(self, waveform: np.ndarray) -> np.ndarray:
        """Find the beats, (beat,) in s, of (samples,) at ``rate_hz``; silence has none."""
        if not waveform.any():
            return np.empty(0)
        return self._decoder(self.activation(waveform))


def open_tracker(layout: DataLayout, model: StemJepa) -> BeatTracker:
    """Open the tracker of a model whose probe was trained.

    Raises:
        ArtifactError: there is no probe for it, or the probe of its name belongs to another
            encoder.
    """
    folder = layout.beat_probes(model.name)
    if not folder.is_dir():
        raise ArtifactError(
            f"{folder} does not exist: no beat probe was trained on {model.name}; train one with: "
            f"{kinds.BEAT_PROBES.remedy(folder)}"
        )
    return BeatTracker(model, read_probes(layout, model.name, model.model_id)[ALL])


def with_clicks(waveform: np.ndarray, rate_hz: int, beats: np.ndarray) -> np.ndarray:
    """Mix a recording with a click at each beat, turned down where it would clip.

    Args:
        waveform: (samples,) float32.
        rate_hz: its rate.
        beats: (beat,) times in s; a click begins at each.

    Returns:
        (samples,) float32, full scale 1.0.
    """
    time = np.arange(round(_CLICK_S * rate_hz)) / rate_hz
    click = _CLICK_LEVEL * np.sin(2 * np.pi * _CLICK_HZ * time) * np.exp(-time / (_CLICK_S / 5))
    mixed = waveform.astype(np.float32, copy=True)
    for start in np.rint(beats * rate_hz).astype(int):
        part = mixed[start : start + len(click)]
        part += click[: len(part)].astype(np.float32)
    peak = float(np.abs(mixed).max(initial=0.0))
    return mixed * np.float32(_PEAK / peak) if peak > _PEAK else mixed


def write_click_track(path: Path, recording: Path, beats: np.ndarray) -> None:
    """Write a recording with clicks as mono 16-bit WAV at the recording's own rate.

    Raises:
        AudioError: the recording cannot be read.
    """
    import soundfile

    from ml.audio.files import probe, read_audio

    rate_hz = probe(recording).rate_hz
    clicked = with_clicks(read_audio(recording, rate_hz=rate_hz), rate_hz, beats)
    with write_aside(path) as aside:
        soundfile.write(aside, clicked, rate_hz, format="WAV", subtype="PCM_16")
