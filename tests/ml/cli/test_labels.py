"""Labels in words, from end to end: encoders that must agree, and instruments nobody trained on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ml.artifacts import read_json
from ml.cli.main import main
from ml.labels.clap_files import ClapFiles
from ml.labels.encoders import build_label_encoder
from ml.settings import load_settings


@pytest.fixture
def stems(home: Path, capsys: pytest.CaptureFixture[str]):
    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["--home", str(home), *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def uses_clap(home: Path, tiny_clap: ClapFiles) -> None:
    chosen = {"name": "clap", "checkpoint": str(tiny_clap.checkpoint)}
    (home / "config.yaml").write_text(json.dumps({"label_encoder": chosen}))


def test_an_unknown_instrument_says_which_labels_it_acts_like(stems, home: Path) -> None:
    assert stems("embed", "demo-plain", "--models", "film", "--precision", "fp32")[0] == 0
    mix = str(next((home / "corpora" / "demo-plain").rglob("*.wav")))
    query = ("query", mix, "--model", "film", "-k", "2", "--json", "--instrument")
    code, out, err = stems(*query, "acustic gitar")
    assert code == 0
    assert len(json.loads(out)) == 2
    assert '"acustic gitar" is not a training label; it acts like: ' in err
    trained = read_json(load_settings(home).layout.models_index)["film"]
    labels = read_json(home / trained / "manifest.json")["training_labels"]
    nearest = err.partition("acts like: ")[2].partition(";")[0].strip().split(", ")
    assert len(nearest) == 3
    assert {text.rpartition(" ")[0] for text in nearest} <= set(labels)
    slip = stems(*query, labels[0][:-1] + "x")[2]  # near by spelling where not by meaning
    assert f"acts like: {labels[0]}" in slip or f'did you mean "{labels[0]}"?' in slip
    code, out, err = stems(*query, labels[0])
    assert code == 0
    assert "acts like" not in err


@pytest.mark.usefixtures("uses_clap")
def test_labels_of_another_encoder_are_refused_and_both_are_named(stems) -> None:
    code, out, _ = stems("labels", "build", "demo-plain")
    assert code == 0
    assert "by clap" in out
    code, _, err = stems("embed", "demo-plain", "--models", "film")
    assert code == 2
    assert "encoded by clap (512 dimensions" in err
    assert "trained with minilm (384 dimensions" in err


@pytest.mark.usefixtures("uses_clap")
def test_a_change_of_encoder_is_a_new_version_and_encodes_all(stems, home: Path) -> None:
    manifest = load_settings(home).layout.labels("demo") / "manifest.json"
    before = read_json(manifest)
    assert stems("labels", "build", "demo")[0] == 0
    after = read_json(manifest)
    assert before["identity"]["categories"] == after["identity"]["categories"]
    assert before["fingerprint"] != after["fingerprint"]
    assert after["encoder"]["name"] == "clap"
    assert after["summary"]["encoded"] == after["summary"]["texts"]
    code, out, _ = stems("labels", "build", "demo")
    assert code == 0
    assert "is up to date" in out


def test_clap_without_its_files_says_how_to_get_them(stems, home: Path) -> None:
    (home / "config.yaml").write_text("label_encoder: {name: clap}\n")
    code, _, err = stems("labels", "build", "demo")
    assert code == 2
    assert "stems labels fetch" in err
    code, _, err = stems("labels", "suggest", "demo")
    assert code == 2
    assert "stems labels fetch" in err


@pytest.mark.usefixtures("uses_clap")
def test_a_model_alone_takes_the_clap_of_the_settings(
    home: Path, tiny_clap: ClapFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEMS_HOME", str(home))
    assert build_label_encoder("clap").fingerprint == tiny_clap.fingerprint()
