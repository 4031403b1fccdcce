from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from ml.corpora.scan import count_problems, scan_stem
from ml.tracks import Stem


def test_every_problem_of_a_scan_has_a_kind(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 32000)
    for name, content in {
        "cut": lambda p: p.write_bytes(p.read_bytes()[:20000]),
        "silent": lambda p: soundfile.write(p, np.zeros(32000), 16000),
        "torn": lambda p: p.write_bytes(b"torn" * 99),
        "nothing": lambda p: p.write_bytes(b""),
        "nan": lambda p: soundfile.write(p, np.full(32000, np.nan), 16000, subtype="FLOAT"),
        "slow": lambda p: soundfile.write(p, noise, 100),
    }.items():
        soundfile.write(tmp_path / f"{name}.wav", noise, 16000)
        content(tmp_path / f"{name}.wav")
    paths = [*sorted(tmp_path.iterdir()), tmp_path / "missing.wav", tmp_path]
    problems = [scan_stem(Stem(stem_id=str(p), files=(p,))).problem for p in paths]
    kinds = {kind: count for kind, count, _ in count_problems(problems)}
    assert kinds == {
        "is cut off": 1, "never sounds": 1, "cannot be decoded": 1, "holds nothing": 1,
        "is damaged": 1, "has a header that is wrong": 1, "is not there": 2,
    }  # fmt: skip
    assert count_problems([None, "never heard of"]) == [("other", 1, "see above")]
