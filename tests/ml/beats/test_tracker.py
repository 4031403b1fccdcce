"""Beats of any recording: silence, appended silence, short files, clicks."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ml.artifacts import DataLayout
from ml.beats.features import beat_inputs
from ml.beats.probe import BeatProbe, probes_per_step
from ml.beats.probes import StoredProbe
from ml.beats.tracker import BeatTracker, with_clicks
from ml.models.stem_jepa import load_model
from ml.training.models import read_models


@pytest.fixture
def tracker(shared_home: Path) -> BeatTracker:
    """A probe with random weights on a small encoder."""
    layout = DataLayout(home=shared_home)
    (source,) = beat_inputs(layout, ["film"], [-1])
    probe = BeatProbe(source.feature_dim, probes_per_step(source.step_s))
    torch.manual_seed(0)
    torch.nn.init.normal_(probe.linear.weight, std=0.1)
    stored = StoredProbe(
        name="all",
        probe=probe.eval(),
        layer=source.layers[0],
        row=0,
        peak_threshold=0.3,
        valid_loss=None,
        epochs=1,
    )
    return BeatTracker(load_model(read_models(layout)["film"]), stored)


@pytest.mark.parametrize("seconds", [0.01, 0.5, 3.0, 7.9])
def test_any_length_has_an_activation_of_its_length(tracker: BeatTracker, seconds: float):
    waveform = np.random.default_rng(0).normal(0, 0.1, round(16_000 * seconds))
    activation = tracker.activation(waveform.astype(np.float32))
    assert len(activation) == max(1, round(seconds * 50))
    beats = tracker(waveform.astype(np.float32))
    assert (np.diff(beats) > 0).all()
    assert not len(beats) or (beats[0] >= 0 and beats[-1] <= seconds)


def test_silence_has_no_beats(tracker: BeatTracker):
    assert tracker(np.zeros(32_000, dtype=np.float32)).size == 0


def test_clicks_begin_at_beats_and_never_clip(make_clicks: Callable[..., np.ndarray]):
    waveform = make_clicks(np.array([0.25]), 2.0) * 3
    clicked = with_clicks(waveform, 16_000, np.array([0.5, 1.99]))
    assert len(clicked) == len(waveform)
    assert np.abs(clicked).max() <= 1
    added = with_clicks(np.zeros(32_000, dtype=np.float32), 16_000, np.array([0.5]))
    assert not added[:8_000].any()
    assert np.abs(added[8_000:8_640]).max() > 0.3
    assert not added[8_640:].any()
