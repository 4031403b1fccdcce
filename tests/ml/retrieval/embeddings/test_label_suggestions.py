from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ml.artifacts import ArtifactError, DataLayout
from ml.corpora.corpus import open_corpus
from ml.labels.clap_files import ClapFiles
from ml.retrieval.embeddings import label_suggestions
from ml.retrieval.embeddings.baselines import ClapAudioModel
from ml.retrieval.embeddings.label_suggestions import suggest_labels


class Ear(ClapAudioModel):
    """Hears a violin in what is loud and a snare drum in the rest."""

    class _LogMel:
        def __call__(self, waveform: Tensor, /) -> Tensor:
            return waveform.abs().amax(-1)[:, None, None]

        def fingerprint(self) -> str:
            return "peak"

    def __init__(self, files: ClapFiles):
        super().__init__(files)
        self.log_mel = self._LogMel()  # pyright: ignore[reportAttributeAccessIssue]

    def gallery_vectors(self, mel: Tensor) -> Tensor:
        loud, soft = torch.from_numpy(self.encode_labels(["violin", "snare drum"]))
        return torch.where(mel[:, 0] > 0.3, loud, soft)


@pytest.fixture
def corpus(
    write_corpus: Callable[..., Path],
    make_sine: Callable[..., np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    monkeypatch.setattr(label_suggestions, "ClapAudioModel", Ear)
    return write_corpus(
        "half",
        {
            "one": {
                "known": ("bass > bass guitar", make_sine(3, 2.0)),
                "loud": ("", make_sine(9, 2.0, level=0.5)),
                "soft": ("", make_sine(9, 2.0, level=0.1)),
                "silent": ("", np.zeros(32_000, dtype=np.float32)),
            }
        },
        split="train",
    )


def test_a_person_confirms_and_the_csv_is_a_corpus(
    corpus: Path, layout: DataLayout, tiny_clap: ClapFiles, tmp_path: Path
) -> None:
    out = tmp_path / "out" / "half.csv"
    before = sorted(path.stat().st_mtime_ns for path in corpus.rglob("*"))
    summary = suggest_labels("half", layout, tiny_clap, out, top=2)
    assert summary == {"stems": 4, "unlabelled": 3, "suggested": 2, "silent": 1}
    with out.open(newline="") as file:
        rows = {row["stem_id"]: row for row in csv.DictReader(file)}
    assert rows["known"]["labels"] == "bass > bass guitar"
    assert rows["known"]["suggestion_1"] == rows["silent"]["suggestion_1"] == ""
    assert rows["loud"]["suggestion_1"] == "bowed strings > violin"
    assert rows["soft"]["suggestion_1"] == "drums > snare drum"
    assert float(rows["loud"]["similarity_1"]) == pytest.approx(1, abs=1e-3)
    assert float(rows["loud"]["similarity_2"]) <= float(rows["loud"]["similarity_1"])
    assert all(not rows[name]["labels"] for name in ("loud", "soft", "silent"))

    old = next(iter(open_corpus("manifest", corpus / "corpus.csv").tracks()))
    new = next(iter(open_corpus("manifest", out).tracks()))
    assert new == old  # nothing is labelled before a person says so
    rows["loud"]["labels"] = rows["loud"]["suggestion_1"]
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows["loud"]))
        writer.writeheader()
        writer.writerows(rows.values())
    labelled = next(iter(open_corpus("manifest", out).tracks()))
    assert {stem.stem_id: stem.labels for stem in labelled.stems} == {
        **{stem.stem_id: stem.labels for stem in old.stems},
        "one/loud": ("bowed strings", "violin"),
    }
    assert sorted(path.stat().st_mtime_ns for path in corpus.rglob("*")) == before


@pytest.mark.usefixtures("corpus")
def test_without_clap_nothing_is_written(layout: DataLayout, tmp_path: Path) -> None:
    files = ClapFiles(checkpoint=tmp_path / "no.pt", tokenizer=tmp_path)
    with pytest.raises(ArtifactError, match="stems labels fetch"):
        suggest_labels("half", layout, files, tmp_path / "x.csv")
    with pytest.raises(ValueError, match="top = 0"):
        suggest_labels("half", layout, files, tmp_path / "x.csv", top=0)
    assert not (tmp_path / "x.csv").exists()
