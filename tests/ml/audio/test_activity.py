from __future__ import annotations

import numpy as np
import pytest

from ml.audio.activity import ActivityConfig, active_intervals, active_seconds, frame_power

RATE_HZ = 16000
RULE = ActivityConfig()


def _levels(*parts: tuple[float, float | None]) -> np.ndarray:
    """(seconds, RMS level in dB or None for silence) one after the other, as the highest tone."""
    levels = np.concatenate(
        [
            np.full(round(seconds * RATE_HZ), 0.0 if db is None else 10 ** (db / 20), np.float32)
            for seconds, db in parts
        ]
    )
    return levels * np.where(np.arange(levels.size) % 2, -1, 1).astype(np.float32)


def test_intervals_of_a_hand_made_signal() -> None:
    waveform = _levels((1, None), (2, -20), (1, None), (0.5, -40), (0.25, None))
    assert active_intervals(waveform, RATE_HZ, RULE) == [(1.0, 3.0), (4.0, 4.5)]


def test_a_level_between_the_thresholds_keeps_the_state() -> None:
    rising = _levels((1, -55), (1, -45), (1, -55), (1, -65), (1, -55))
    assert active_intervals(rising, RATE_HZ, RULE) == [(1.0, 3.0)]


def test_short_silences_are_filled_before_short_sounds_are_dropped() -> None:
    taps = _levels((1, None), (0.05, -10), (0.25, None), (0.05, -10), (1, None), (0.05, -10))
    assert active_intervals(taps, RATE_HZ, RULE) == [(1.0, 1.35)]


def test_a_silence_of_exactly_the_minimum_separates() -> None:
    waveform = _levels((0.5, -10), (0.3, None), (0.5, -10))
    assert len(active_intervals(waveform, RATE_HZ, RULE)) == 2
    assert len(active_intervals(_levels((0.5, -10), (0.25, None), (0.5, -10)), RATE_HZ, RULE)) == 1


def test_the_last_partial_frame_counts_and_ends_with_the_waveform() -> None:
    waveform = _levels((1, None), (0.512, -20))
    assert active_intervals(waveform, RATE_HZ, RULE) == [(1.0, len(waveform) / RATE_HZ)]


@pytest.mark.parametrize("samples", [0, 1, 799, 800, 801])
def test_silence_of_any_length_has_no_intervals(samples: int) -> None:
    assert active_intervals(np.zeros(samples, np.float32), RATE_HZ, RULE) == []


def test_intervals_are_sorted_disjoint_and_inside() -> None:
    rng = np.random.default_rng(0)
    gains = 10 ** (rng.uniform(-80, 0, 200) / 20)
    waveform = (rng.standard_normal((200, 1600)) * gains[:, None]).astype(np.float32).ravel()[:-7]
    intervals = active_intervals(waveform, RATE_HZ, RULE)
    flat = np.array(intervals).ravel()
    assert len(intervals) > 3
    assert np.all(np.diff(flat) > 0)
    assert flat[0] >= 0
    assert flat[-1] <= len(waveform) / RATE_HZ
    assert np.all(np.diff(flat)[1::2] >= RULE.min_silence_s - 1e-9)


def test_frame_power_is_the_variance() -> None:
    waveform = np.random.default_rng(0).standard_normal(2003).astype(np.float32)
    slow = [np.var(waveform[i : i + 400].astype(np.float64)) for i in range(0, 2003, 400)]
    np.testing.assert_allclose(frame_power(waveform, 400), slow, rtol=1e-6)


@pytest.mark.parametrize("offset", [1e-3, 0.02, -0.5])
def test_an_offset_is_no_sound_and_changes_none(offset: float) -> None:
    waveform = _levels((1, None), (2, -20), (1, -49), (1, None), (0.5, -40), (0.25, None))
    expected = active_intervals(waveform, RATE_HZ, RULE)
    assert active_intervals(waveform + np.float32(offset), RATE_HZ, RULE) == expected
    assert active_intervals(np.full(48000, offset, np.float32), RATE_HZ, RULE) == []


def test_active_seconds_clips_to_the_window() -> None:
    intervals = [(1.0, 2.0), (3.0, 5.0)]
    assert active_seconds(intervals, 0.0, 10.0) == 3.0
    assert active_seconds(intervals, 1.5, 3.5) == 1.0
    assert active_seconds(intervals, 2.0, 3.0) == 0.0


def test_wrong_rules_are_refused() -> None:
    with pytest.raises(ValueError, match="above on_db"):
        ActivityConfig(on_db=-60, off_db=-50)
    with pytest.raises(ValueError, match="frame_s"):
        ActivityConfig(frame_s=0)
