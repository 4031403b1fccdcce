from __future__ import annotations

import base64
import io
import shutil

import numpy as np
import pytest
import soundfile

from ml.artifacts import DataLayout
from ml.reports.samples import (
    EXCERPT_S,
    RATE_HZ,
    Excerpt,
    loudest_start,
    mp3_uri,
    sample_queries,
    spread_over_ranks,
    together,
)
from ml.reports.scored import read_queries, score_tables

NAMES = ("bass", "drums", "piano", "wind", "unlabelled")


def heard(excerpt: Excerpt) -> np.ndarray:
    assert excerpt.audio is not None
    head, _, data = excerpt.audio.partition(",")
    assert head == "data:audio/mpeg;base64"
    waveform, rate_hz = soundfile.read(io.BytesIO(base64.b64decode(data)))
    assert rate_hz == RATE_HZ
    return waveform


def tones_of(waveform: np.ndarray) -> set[int]:
    """Frequencies in Hz that stand out."""
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform)), n=4 * RATE_HZ))
    bands = spectrum[: 4 * 600].reshape(-1, 4).max(axis=1)
    return {int(hz) for hz in np.flatnonzero(bands > 0.3 * bands.max())}


def is_near(found: set[int], expected: set[int]) -> bool:
    return all(min(abs(hz - other) for other in expected) <= 3 for hz in found) and all(
        min(abs(hz - other) for other in found) <= 3 for hz in expected
    )


def test_samples_are_spread_from_good_to_bad_over_different_tracks():
    queries = [
        {"stem_id": f"{track}/{stem}", "track_id": f"t{track}", "rank": 10 * stem + track + 1}
        for track in range(10)
        for stem in range(6)
    ]
    chosen = spread_over_ranks(queries, 6)
    assert [query["rank"] // 10 for query in chosen] == [0, 1, 2, 3, 4, 5]
    assert len({query["track_id"] for query in chosen}) == 6
    assert spread_over_ranks(queries[::-1], 6) == chosen
    assert len(spread_over_ranks(queries[:3], 6)) == 3


def test_stems_sound_together_with_the_mix(filled: DataLayout):
    [table] = score_tables(filled)
    queries = read_queries(filled, table, "film-nce")
    model_id = table.model_ids["film-nce"]
    samples = sample_queries(filled, "tones", model_id, queries, conditioning="fine", n=3)
    assert len(samples) == 3
    for sample in samples:
        song = int(sample.mix.track_id.removeprefix("song-"))
        stem = NAMES.index(sample.truth.name.split(" > ")[0])
        tones = [110 + 60 * i + 7 * song for i in range(5)]
        assert is_near(tones_of(heard(sample.truth)), set(tones))
        assert is_near(tones_of(heard(sample.mix)), mix := set(tones) - {tones[stem]})
        assert [excerpt.score for excerpt in sample.found] == sorted(
            (excerpt.score or 0 for excerpt in sample.found), reverse=True
        )
        for excerpt in sample.found:
            assert ("the right stem" in excerpt.remarks) == (
                (excerpt.name, excerpt.track_id) == (sample.truth.name, sample.truth.track_id)
            )
            song = int(excerpt.track_id.removeprefix("song-"))
            stem = NAMES.index(excerpt.name.split(" > ")[0])
            assert is_near(tones_of(heard(excerpt)), mix | {110 + 60 * stem + 7 * song})


def test_a_sample_whose_audio_has_gone_says_so(filled: DataLayout):
    [table] = score_tables(filled)
    shutil.rmtree(filled.home / "tones" / "song-00")
    queries = [q for q in read_queries(filled, table, "film") if q["track_id"] == "song-00"]
    samples = sample_queries(
        filled, "tones", table.model_ids["film"], queries, conditioning="fine", n=1
    )
    assert samples[0].problem is not None
    assert "does not exist" in samples[0].problem
    assert samples[0].mix.audio is None


@pytest.mark.parametrize("level", [1e-4, 5.0])
def test_excerpts_are_equally_loud_small_and_not_clipped(level: float):
    time = np.arange(round(EXCERPT_S * RATE_HZ)) / RATE_HZ
    uri = mp3_uri((level * np.sin(2 * np.pi * 440 * time)).astype(np.float32))
    waveform = heard(Excerpt(name="", track_id="", audio=uri))
    middle = waveform[RATE_HZ:-RATE_HZ]
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.1, rel=0.1)
    assert np.abs(waveform).max() < 1
    assert len(uri) < 80_000


def test_silence_and_nothing_can_be_encoded():
    assert mp3_uri(np.zeros(800, np.float32)).startswith("data:audio/mpeg")
    assert mp3_uri(np.zeros(0, np.float32)).startswith("data:audio/mpeg")


def test_a_quiet_stem_is_as_loud_as_the_mix_and_may_be_shorter():
    mix, stem = np.zeros(900, np.float32), np.zeros(600, np.float32)
    mix[0], stem[1] = 1.0, 1e-3
    both = together(mix, stem)
    assert both.shape == (900,)
    np.testing.assert_allclose(both[:3], [900**0.5, 600**0.5, 0], rtol=1e-6)
    assert together(mix, stem[:0]).any()


def test_the_loudest_part_is_found():
    waveform = np.zeros(20 * RATE_HZ, np.float32)
    waveform[11 * RATE_HZ : 13 * RATE_HZ] = 0.5
    start = loudest_start(waveform, 2 * RATE_HZ)
    assert start == 11 * RATE_HZ
    assert loudest_start(waveform[:100], 2 * RATE_HZ) == 0
