from __future__ import annotations

import numpy as np
import pytest

from ml.corpora.demo.score import Note
from ml.corpora.demo.synths import RATE_HZ, Tone, render_tones, resonances_db, shaped_noise

PLAIN = Tone(slope_db=-6)


def spectrum_peak_hz(waveform: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform)), 1 << 18))
    return float(np.argmax(spectrum) * RATE_HZ / (1 << 18))


@pytest.mark.parametrize(
    ("pitch", "cents", "hz"), [(69, 0, 440.0), (45, 0, 110.0), (69, 50, 452.9)]
)
def test_a_note_has_its_pitch(pitch, cents, hz):
    notes = [Note(0.1, 1.0, pitch, 1.0)]
    stem = render_tones(notes, PLAIN, cents, 2 * RATE_HZ, np.random.default_rng(0))
    assert spectrum_peak_hz(stem) == pytest.approx(hz, rel=2e-3)


def test_a_note_starts_and_stops_when_it_says():
    notes = [Note(0.5, 0.4, 60, 1.0)]
    stem = render_tones(notes, PLAIN, 0, 2 * RATE_HZ, np.random.default_rng(0))
    assert not stem[: RATE_HZ // 2].any()
    assert np.abs(stem[RATE_HZ // 2 : round(0.9 * RATE_HZ)]).max() > 0.5
    assert not stem[round((0.9 + 4 * PLAIN.release_s) * RATE_HZ) + 2 :].any()


def test_notes_add_up_and_may_ring_beyond_the_end():
    notes = [Note(0.1, 0.3, 60, 0.5), Note(0.2, 3.0, 64, 1.0)]
    both, first, second = (
        render_tones(some, PLAIN, 0, RATE_HZ, np.random.default_rng(0))
        for some in (notes, notes[:1], notes[1:])
    )
    assert np.abs(both).max() > 0
    assert len(both) == RATE_HZ
    before = slice(0, RATE_HZ // 5)
    assert np.allclose(both[before], first[before])
    assert np.sum(both.astype(float) ** 2) == pytest.approx(
        float(np.sum(first.astype(float) ** 2) + np.sum(second.astype(float) ** 2)), rel=0.1
    )


def test_no_note_gives_silence():
    assert not render_tones([], PLAIN, 0, 100, np.random.default_rng(0)).any()


def test_resonances_peak_where_they_say():
    hz = np.geomspace(50, 8000, 500)
    level_db = resonances_db(hz, [(1000, 0.3, 12.0)])
    assert hz[level_db.argmax()] == pytest.approx(1000, rel=0.02)
    assert level_db.max() == pytest.approx(12, abs=0.1)
    assert np.allclose(resonances_db(hz, []), 0)


def test_shaped_noise_has_unit_level_and_its_spectrum():
    gain = np.zeros(513)
    gain[100:200] = 1
    noise = shaped_noise(gain, np.random.default_rng(0))
    assert np.sqrt(np.mean(noise.astype(float) ** 2)) == pytest.approx(1, rel=1e-4)
    spectrum = np.abs(np.fft.rfft(noise))
    assert spectrum[:99].max() < 1e-3 * spectrum[100:200].min()
