from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from ml.cli.main import main
from ml.corpora.corpus import open_corpus
from ml.corpora.label_embeddings import read_label_vectors
from ml.corpora.table import build_corpus_tracks
from ml.models.stem_jepa import load_model
from ml.retrieval.champion.champion import write_champion
from ml.retrieval.embeddings.build import embed_corpus
from ml.retrieval.tables.publish import publish_corpus
from ml.settings import SettingsError, load_settings
from ml.training.models import find_checkpoint

RATE_HZ = 16_000


@pytest.fixture(scope="module")
def asked_home(shared_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``film`` is champion, with a table of the demo corpus; read only."""
    home = shutil.copytree(shared_home, tmp_path_factory.mktemp("query") / "home")
    settings = load_settings(home)
    layout, entry = settings.layout, settings.corpus("demo")
    build_corpus_tracks("demo", open_corpus(entry.kind, entry.root), layout)
    checkpoint = find_checkpoint(layout, "film")
    model = load_model(checkpoint)
    embed_corpus("demo", [model], layout, read_label_vectors(layout, "demo"))
    publish_corpus(layout, model.model_id, "demo")
    write_champion(layout, model.model_id, checkpoint)
    return home


@pytest.fixture
def mix(tmp_path: Path) -> Path:
    path = tmp_path / "mix.wav"
    noise = 0.1 * np.random.default_rng(0).standard_normal((3 * RATE_HZ, 2), dtype=np.float32)
    soundfile.write(path, noise, RATE_HZ, subtype="FLOAT")
    return path


def ask(home: Path, *arguments: Any) -> int:
    return main(["--home", str(home), "query", *map(str, arguments)])


@pytest.mark.usefixtures("no_starter")
@pytest.mark.parametrize("arguments", [["query", "--instrument", "bass"], ["table", "path"]])
def test_without_a_model_says_what_to_do(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--home", str(tmp_path), *arguments]) == 2
    assert "no model was promoted yet" in capsys.readouterr().err
    assert main(["--home", str(tmp_path), *arguments, "--model", "film"]) == 2
    assert "'film' is no model here" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_embed_and_evaluate_name_an_unknown_corpus(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["embed", "nope"], ["evaluate", "retrieval", "--corpus", "nope"]):
        assert main(["--home", str(tmp_path), *arguments]) == 2
        assert "'nope'" in capsys.readouterr().err


def test_prints_a_table(asked_home: Path, mix: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(asked_home, mix, "--instrument", "lead vocals", "-k", "3") == 0
    heading, *rows = capsys.readouterr().out.splitlines()
    assert heading.split()[:3] == ["rank", "score", "label"]
    assert heading.endswith("fits best at  with mix at")
    assert [row.split()[0] for row in rows] == ["1", "2", "3"]
    assert ask(asked_home, mix, "--where", "label = 'nothing'") == 0
    assert capsys.readouterr().out == "no stem passes the filters\n"


def test_prints_json_of_all_three_kinds(
    asked_home: Path, mix: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(asked_home, mix, mix, "-k", "2", "--json") == 0
    first, _ = json.loads(capsys.readouterr().out)
    assert first["key"] == f"{first['corpus']}/{first['stem_id']}"
    assert first["mix_start_s"] in (0.0, 1.0)
    assert ask(asked_home, "--like", first["key"], "--exclude-own-track", "-k", "2", "--json") == 0
    alike = json.loads(capsys.readouterr().out)
    assert first["track_id"] not in {row["track_id"] for row in alike}
    assert ask(asked_home, "--instrument", first["label"], "-k", "1", "--json") == 0
    (named,) = json.loads(capsys.readouterr().out)
    assert (named["label"], named["mix_start_s"]) == (first["label"], None)


def test_saves_what_it_found(
    asked_home: Path, mix: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "found"
    assert ask(asked_home, mix, "-k", "2", "--save", out, "--json") == 0
    said = capsys.readouterr()
    rows = json.loads(said.out)
    assert f"2 stems saved in {out}" in said.err
    assert json.loads((out / "results.json").read_text())["candidates"] == rows
    for row in rows:
        excerpt = soundfile.read(out / row["excerpt"], always_2d=True)[0]
        start = round(row["mix_start_s"] * RATE_HZ)
        played = soundfile.read(mix)[0][start : start + len(excerpt)]
        preview = soundfile.read(out / row["preview"])[0][: len(played)]
        total = played + excerpt[: len(played)]
        gain = 10 ** (row["preview_gain_db"] / 20)
        assert preview == pytest.approx(gain * total, abs=2e-3 if gain < 1 else 1e-6)
    assert ask(asked_home, "--like", rows[0]["key"], "-k", "1", "--save", out) == 0
    assert len(list(out.iterdir())) == 2
    (out / "mine.txt").touch()
    capsys.readouterr()
    assert ask(asked_home, mix, "--save", out) == 2
    assert "mine.txt" in capsys.readouterr().err


def test_says_how_an_unknown_instrument_is_taken(
    asked_home: Path, mix: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(asked_home, mix, "--instrument", "lead vocalz", "-k", "1") == 0
    said = capsys.readouterr().err
    assert '"lead vocalz" is not a training label; it acts like: ' in said
    assert "only these: --where \"array_has(labels, 'lead vocals')\"" in said
    assert "a guess" not in said
    assert ask(asked_home, "--instrument", "xyzzy", "-k", "1") == 0
    said = capsys.readouterr()
    assert said.err.startswith('only a guess: no stem is labelled "xyzzy"')
    assert "the score compares label and words, not sounds" in said.err
    assert said.out.split()[:3] == ["rank", "label", "match"]


def test_every_wrong_use_is_one_sentence(
    asked_home: Path, mix: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = soundfile.read(mix, dtype="float32")[0]
    for name, audio in {
        "silence": 0 * noise,
        "short": noise[:3200],
        "almost": noise[:15_840],
    }.items():
        soundfile.write(tmp_path / f"{name}.wav", audio, RATE_HZ)
    (tmp_path / "text.wav").write_text("not audio\n" * 50)
    cases: list[tuple[list[Any], str]] = [
        ([tmp_path / "silence.wav"], "is silent"),
        ([tmp_path / "short.wav"], "lasts 0.20 s; expected at least 1 s"),
        ([tmp_path / "almost.wav"], "lasts 0.99 s"),
        ([tmp_path / "text.wav"], "cannot be decoded"),
        ([tmp_path / "missing.wav"], "does not exist; "),
        ([tmp_path / "almos.wav"], "almos.wav does not exist (did you mean 'almost'?); "),
        ([tmp_path / "no" / "x.wav"], "nor does the folder"),
        ([tmp_path], "is a folder, expected an audio file; "),
        (["--like", tmp_path / "almos.wav"], "almos.wav does not exist (did you mean 'almost'?)"),
        ([mix, "--corpus", "demoo"], "'demoo' is not in"),
        ([mix, "--corpus", "demo-plain"], "demo-plain' is not in"),
        ([mix, "--corpus", "demo-plain"], "corpora there: demo; embed it with"),
        ([mix, "-k", "1000"], "k = 1000; expected 1…"),
        ([mix, "-k", "0"], "k = 0"),
        ([mix, "-k", "1", "--where", "categry = 'bass'"], "is not understood"),
        ([mix, "-k", "1", "--where", "category = 'bass"], "is not understood"),
        ([mix, "-k", "1", "--instrument", " "], "blank"),
        (["-k", "1", "--instrument", ""], "blank"),
        (["-k", "1", "--like", "demo/nothing/at-all"], "neither the key of a stem"),
        (["-k", "1", "--like", tmp_path / "silence.wav"], "the example of 3.0 s is silent"),
        ([mix, "--like", "x"], "--like asks by a stem alone"),
        ([mix, "--exclude-own-track"], "goes with --like"),
        ([], "nothing to ask with"),
        ([mix, "-k", "1", "--model", "film-nce"], "holds no table stem_embeddings"),
        ([mix, "-k", "1", "--save", mix], "is a file"),
    ]
    for arguments, message in cases:
        assert ask(asked_home, *arguments) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert message in said.err
        assert said.err.count("\n") == 1


def test_a_wrong_path_or_corpus_is_refused_before_torch_is_imported(asked_home: Path) -> None:
    program = (
        "import sys\nfrom ml.cli.main import main\n"
        "print(main(sys.argv[1:]), 'torch' in sys.modules, 'lancedb' in sys.modules)"
    )
    for words in (
        ["query", "nowhere.wav"],
        ["query", "--like", "nowhere.wav"],
        ["query", "--instrument", "bass", "--corpus", "nowhere"],
        ["beats", "nowhere.wav"],
    ):
        command = [sys.executable, "-c", program, "--home", str(asked_home), *words]
        ran = subprocess.run(command, capture_output=True, text=True, check=True)
        assert ran.stdout == "2 False False\n"
        assert "nowhere" in ran.stderr


def test_the_import_line_of_the_readme_answers_as_the_verb_does(
    asked_home: Path, mix: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from ml.retrieval.query import load_model, open_retriever

    readme = Path(__file__).parents[3] / "README.md"
    line = "from ml.retrieval.query import load_model, open_retriever"
    assert line in readme.read_text().splitlines()
    retriever = open_retriever(str(asked_home))
    samples, rate_hz = soundfile.read(mix, dtype="float32")
    assert ask(asked_home, mix, "--instrument", "bass", "-k", "3", "--json") == 0
    keys = [row["key"] for row in json.loads(capsys.readouterr().out)]
    assert [x.key for x in retriever.query((samples, rate_hz), "bass", k=3)] == keys
    model = load_model(find_checkpoint(load_settings(asked_home).layout))
    assert model.embed_stem(samples.mean(axis=1)).shape == (model.dim,)
    with pytest.raises(SettingsError, match="does not exist"):
        open_retriever(asked_home / "nowhere")


def test_a_table_of_another_model(
    asked_home: Path, mix: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = shutil.copytree(asked_home, tmp_path / "home")
    layout = load_settings(home).layout
    film, other = (
        layout.lancedb / load_model(find_checkpoint(layout, name)).model_id
        for name in ("film", "film-nce")
    )
    film.rename(other)
    assert ask(home, mix, "-k", "1", "--model", "film-nce") == 2
    assert "holds vectors of model" in capsys.readouterr().err
