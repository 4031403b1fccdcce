"""Real multitracks, where there are some: m4a, ogg, mp3, 24-bit wav; 24 to 48 kHz; sparse."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from ml.audio.files import read_audio
from ml.cli.main import main as stems

REFERENCE = os.environ.get("STEMS_REFERENCE", "")
pytestmark = [
    pytest.mark.reference,
    pytest.mark.skipif(not REFERENCE, reason="STEMS_REFERENCE names no folder of multitracks"),
]


@pytest.mark.slow
def test_the_manifest_lists_9_tracks_and_59_stems_without_problems(tmp_path, capsys):
    csv = Path(REFERENCE) / "corpora" / "corpus.csv"
    assert (
        stems(["--home", str(tmp_path), "corpus", "inspect", "manifest", str(csv), "--json"]) == 0
    )
    found = json.loads(capsys.readouterr().out)
    rows = found["stems"]
    assert len(rows) == 59
    assert len({row["track_id"] for row in rows}) == 9
    assert [row["problem"] for row in rows] == [None] * 59
    assert {row["rate_hz"] for row in rows} == {24_000, 44_100, 48_000}
    assert {row["channels"] for row in rows} == {1, 2}
    assert sum(not row["labels"] for row in rows) == 3
    assert not list(tmp_path.iterdir())  # it leaves nothing behind


def test_the_streams_of_a_stem_file_sum_to_its_mixture():
    path = next((Path(REFERENCE) / "corpora" / "musdb18_sample").rglob("*.stem.mp4"))
    mixture, *parts = (read_audio(path, rate_hz=16_000, stream=i) for i in range(5))
    total = np.sum(parts, axis=0)
    assert len(total) == len(mixture)
    # AAC is lossy and the mixture is mastered, but at the right lag they are nearly the same.
    assert np.corrcoef(total, mixture)[0, 1] > 0.98
