from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from ml.artifacts import ArtifactError
from ml.audio.files import AudioError
from ml.music.fit import Fit, stretched
from ml.retrieval.queries.candidates import Candidate
from ml.retrieval.queries.excerpts import PlayedMix, save_excerpts
from ml.retrieval.queries.stem_files import stem_window
from ml.tracks import Stem

RATE_HZ = 16_000


def noise(seconds: float, channels: int = 1, level: float = 0.1, seed: int = 0) -> np.ndarray:
    shape = (round(seconds * RATE_HZ), channels)
    return level * np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def write(path: Path, audio: np.ndarray, rate_hz: int = RATE_HZ) -> Path:
    soundfile.write(path, audio, rate_hz, subtype="FLOAT")
    return path


def read(path: Path) -> np.ndarray:
    return soundfile.read(path, dtype="float32", always_2d=True)[0]


def candidate(rank: int = 1, **fields: Any) -> Candidate:
    known: dict[str, Any] = {
        "score": 0.5,
        "key": "songs/one/bass",
        "stem_id": "one/bass",
        "track_id": "one",
        "corpus": "songs",
        "label": "bass guitar",
        "category": "bass",
        "best_start_s": 1.0,
        "mix_start_s": 2.0,
        "duration_s": 4.0,
        "audio": "",
    }
    return Candidate(rank=rank, **{**known, **fields})


def stem_of(*paths: Path, **fields: Any) -> Any:
    return lambda _: Stem(stem_id="one/bass", files=paths, **fields)


def test_a_preview_is_mix_plus_stem_sample_for_sample(tmp_path: Path) -> None:
    stem, mix = noise(4, 1), noise(5, 2, seed=1)
    path, mix_path = write(tmp_path / "stem.wav", stem), write(tmp_path / "mix.wav", mix)
    (row,) = save_excerpts(
        tmp_path / "out",
        [candidate()],
        stem_of(path),
        chunk_s=2.0,
        played=PlayedMix(mix=mix_path, rate_hz=RATE_HZ),
        about={"instrument": "bass"},
    )
    assert row["excerpt"] == "01-bass-guitar-one.wav"
    assert row["preview"] == "01-bass-guitar-one-with-mix.wav"
    assert row["preview_gain_db"] == 0
    excerpt = read(tmp_path / "out" / row["excerpt"])
    assert np.array_equal(excerpt, stem[RATE_HZ : 3 * RATE_HZ])
    preview = read(tmp_path / "out" / row["preview"])
    assert np.array_equal(preview, mix[2 * RATE_HZ : 4 * RATE_HZ] + excerpt)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["candidates"] == [row]
    assert (results["instrument"], results["made_by"]) == ("bass", "stems query --save")


def test_a_loud_preview_is_turned_down_as_a_whole(tmp_path: Path) -> None:
    stem, mix = noise(4, level=0.5), noise(5, level=0.5, seed=1)
    path = write(tmp_path / "stem.wav", stem)
    (row,) = save_excerpts(
        tmp_path / "out",
        [candidate()],
        stem_of(path),
        chunk_s=2.0,
        played=PlayedMix(mix=[mix[:, 0]], rate_hz=RATE_HZ),
        about={},
    )
    preview = read(tmp_path / "out" / row["preview"])
    total = mix[2 * RATE_HZ : 4 * RATE_HZ] + stem[RATE_HZ : 3 * RATE_HZ]
    assert np.abs(preview).max() == pytest.approx(1)
    assert row["preview_gain_db"] == pytest.approx(-20 * np.log10(np.abs(total).max()), abs=0.01)
    assert preview == pytest.approx(total / np.abs(total).max(), abs=1e-6)


def test_an_excerpt_ends_where_the_stem_ends(tmp_path: Path) -> None:
    path = write(tmp_path / "stem.wav", noise(4))
    found = [candidate(best_start_s=3.0), candidate(2, best_start_s=None, mix_start_s=None)]
    rows = save_excerpts(tmp_path / "out", found, stem_of(path), chunk_s=2.0, about={})
    assert len(read(tmp_path / "out" / rows[0]["excerpt"])) == RATE_HZ
    assert len(read(tmp_path / "out" / rows[1]["excerpt"])) == 2 * RATE_HZ
    assert rows[0]["preview"] is None


def test_a_stem_of_several_files_is_their_sum(tmp_path: Path) -> None:
    mono, stereo = noise(2), noise(3, 2, seed=1)
    paths = (write(tmp_path / "a.wav", mono), write(tmp_path / "b.wav", stereo))
    window, rate_hz = stem_window(Stem(stem_id="x", files=paths, start_s=0.5), 1.0, 2.0)
    assert rate_hz == RATE_HZ
    total = stereo[8000:40_000].copy()
    total[: 32_000 - 8000] += mono[8000:]
    assert np.array_equal(window, total)
    fine = write(tmp_path / "c.wav", noise(3), 2 * RATE_HZ)
    window, rate_hz = stem_window(Stem(stem_id="x", files=(paths[0], fine)), 0.0, 1.0)
    assert (rate_hz, window.shape) == (2 * RATE_HZ, (2 * RATE_HZ, 1))


def test_names_are_safe(tmp_path: Path) -> None:
    path = write(tmp_path / "stem.wav", noise(4))
    wild = candidate(label="../été: bass", track_id="a/b\x00?" + "x" * 300)
    (row,) = save_excerpts(tmp_path / "out", [wild], stem_of(path), chunk_s=2.0, about={})
    assert row["excerpt"].startswith("01-été-bass-a-b-xxx")
    assert len(row["excerpt"]) < 100
    assert (tmp_path / "out" / row["excerpt"]).is_file()


def test_replaces_only_what_it_wrote(tmp_path: Path) -> None:
    path = write(tmp_path / "stem.wav", noise(4))
    out = tmp_path / "out"

    def save(found: list[Candidate]) -> None:
        save_excerpts(out, found, stem_of(path), chunk_s=2.0, about={})

    out.mkdir()  # an empty folder may be taken
    save([candidate(), candidate(2)])
    save([candidate(label="flute")])
    assert sorted(p.name for p in out.iterdir()) == ["01-flute-one.wav", "results.json"]
    (out / "notes.txt").touch()
    with pytest.raises(ArtifactError, match=r"holds notes\.txt"):
        save([candidate()])
    assert (out / "01-flute-one.wav").is_file()
    with pytest.raises(ArtifactError, match="is a file"):
        save_excerpts(path, [], stem_of(path), chunk_s=2.0, about={})
    (tmp_path / "foreign").mkdir()
    for text in ('{"made_by": "me"}', "[1]", "{"):
        (tmp_path / "foreign" / "results.json").write_text(text)
        with pytest.raises(ArtifactError, match=r"holds results\.json"):
            save_excerpts(tmp_path / "foreign", [], stem_of(path), chunk_s=2.0, about={})


def test_nothing_is_left_when_a_file_has_gone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(AudioError, match=r"gone\.wav"):
        save_excerpts(out, [candidate()], stem_of(tmp_path / "gone.wav"), chunk_s=2.0, about={})
    assert list(tmp_path.iterdir()) == []


def test_a_fitted_excerpt_is_stretched_and_goes_with_its_place_of_the_mix(tmp_path: Path) -> None:
    path, mix_path = (
        write(tmp_path / "a.wav", noise(4)),
        write(tmp_path / "m.wav", noise(5, seed=1)),
    )
    fit = Fit(speed=1.25, start_s=0.5, mix_start_s=1.5)
    (row,) = save_excerpts(
        tmp_path / "out",
        [candidate()],
        stem_of(path),
        chunk_s=2.0,
        played=PlayedMix(mix=mix_path, rate_hz=RATE_HZ),
        fit_of=lambda _: fit,
        about={},
    )
    assert (row["fit"]["speed"], row["fit"]["start_s"]) == (1.25, 0.5)
    excerpt, preview = (read(tmp_path / "out" / row[name]) for name in ("excerpt", "preview"))
    played = stretched(read(path)[RATE_HZ // 2 : 3 * RATE_HZ], RATE_HZ, 1.25, 0)
    assert excerpt == pytest.approx(played)
    assert preview == pytest.approx(read(mix_path)[3 * RATE_HZ // 2 : 7 * RATE_HZ // 2] + played)
