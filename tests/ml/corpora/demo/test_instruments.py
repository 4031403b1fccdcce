from __future__ import annotations

import numpy as np
import pytest

from ml.corpora.demo.compose import compose, draw_style
from ml.corpora.demo.instruments import INSTRUMENTS, OTHER_NAMES, TONES, UNSEEN, part_writer, render
from ml.corpora.demo.synths import RATE_HZ, draw_family

DURATION_S = 8.0
SPECIMENS = 5


def play(name: str, seed: int) -> np.ndarray:
    """Some bars of an instrument in the song of a seed."""
    rng = np.random.default_rng(seed)
    style = draw_style(rng)
    writers = [part_writer(INSTRUMENTS[name], style, rng)] * 2
    notes = compose(rng, style, writers, DURATION_S).parts[0]
    family = draw_family(rng, style.tuning_cents)
    return render(INSTRUMENTS[name], notes, family, round(DURATION_S * RATE_HZ), rng)


@pytest.fixture(scope="module")
def stems():
    return {name: [play(name, seed) for seed in range(SPECIMENS)] for name in INSTRUMENTS}


@pytest.mark.parametrize("name", INSTRUMENTS)
def test_every_instrument_sounds_at_its_level(stems, name):
    for stem in stems[name]:
        assert stem.dtype == np.float32
        assert np.isfinite(stem).all()
        peak_db = 20 * np.log10(np.abs(stem).max())
        assert abs(peak_db - INSTRUMENTS[name].peak_db) <= 1.51
        assert -12.1 < peak_db < -0.9
        assert 20 * np.log10(np.sqrt(np.mean(stem.astype(float) ** 2))) > -45


def test_instruments_can_be_told_apart_by_timbre(stems):
    """The nearest other stem, by level per band and its movement, is of the same instrument."""
    names = [name for name in INSTRUMENTS for _ in range(SPECIMENS)]
    features = np.array([_timbre(stem) for name in INSTRUMENTS for stem in stems[name]])
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    distance = np.linalg.norm(features[:, None] - features[None, :], axis=-1)
    np.fill_diagonal(distance, np.inf)
    nearest = distance.argmin(axis=1)
    hits = np.mean([names[i] == names[j] for i, j in enumerate(nearest)])
    assert hits > 10 / len(INSTRUMENTS)


def test_specimens_of_an_instrument_differ(stems):
    for name in INSTRUMENTS:
        first, second = (_timbre(stem) for stem in stems[name][:2])
        assert np.abs(first - second).max() > 0.1, name


def test_labels_go_from_coarse_to_fine_without_repeating():
    for labels in [i.labels for i in INSTRUMENTS.values()] + list(OTHER_NAMES.values()):
        assert 2 <= len(labels) == len(set(labels)) <= 3
        assert all(label == label.lower().strip() for label in labels)
    assert set(UNSEEN) | set(OTHER_NAMES) <= set(INSTRUMENTS)
    assert {name for name, i in INSTRUMENTS.items() if not i.kit} == set(TONES)


def _timbre(stem: np.ndarray) -> np.ndarray:
    """Level and movement in 24 bands of equal ratio: (48,)."""
    frames = stem[: len(stem) // 512 * 512].reshape(-1, 512) * np.hanning(512)
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2  # (frame, bin)
    edges = np.unique(np.geomspace(2, 257, 25).round().astype(int))
    bands = np.log(np.add.reduceat(power, edges[:-1], axis=1) + 1e-4)  # (frame, band)
    sounding = bands[frames.std(axis=1) > 3e-3]
    return np.concatenate([sounding.mean(axis=0), np.abs(np.diff(sounding, axis=0)).mean(axis=0)])
