from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest

from ml.cli.main import main as stems
from ml.corpora.corpus import KINDS, Kind, open_corpus
from ml.corpora.corpus import _readers as readers
from ml.tracks import CorpusError


def _touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@pytest.fixture
def roots(tmp_path: Path, write_noise) -> dict[str, Path]:
    """A small corpus of each published kind: one track of two stems."""
    moises = tmp_path / "moisesdb"
    for name in ("b1", "b2"):
        write_noise(moises / f"p/u/bass/{name}.wav")
    tracks = [{"id": i, "trackType": "bass guitar", "extension": "wav"} for i in ("b1", "b2")]
    (moises / "p/u/data.json").write_text(
        json.dumps({"stems": [{"stemName": "bass", "tracks": tracks}]})
    )
    musdb = tmp_path / "musdb18"
    for name in ("bass", "drums", "other", "vocals"):
        write_noise(musdb / f"test/A - B/{name}.wav")
    slakh = tmp_path / "slakh2100"
    (slakh / "train/Track00001").mkdir(parents=True)
    (slakh / "train/Track00001/metadata.yaml").write_text("stems: {S00: {inst_class: Bass}}")
    medley = tmp_path / "medleydb"
    (medley / "Audio/A_A").mkdir(parents=True)
    (medley / "Audio/A_A/A_A_METADATA.yaml").write_text("stems: {S01: {instrument: piano}}")
    for n in (0, 1):
        write_noise(slakh / f"train/Track00001/stems/S0{n}.flac")
        write_noise(medley / f"Audio/A_A/A_A_STEMS/A_A_STEM_0{n}.wav")
    return {path.name: path for path in (moises, musdb, slakh, medley)}


def test_every_kind_has_a_reader_and_a_text() -> None:
    assert set(KINDS) == set(get_args(Kind)) == set(readers())


def test_unknown_kinds_and_options_name_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="'mp3' is unknown; expected one of: beats, demo, fol"):
        open_corpus("mp3", tmp_path)
    for kind, accepted in {
        "musdb18": "none",
        "moisesdb": "unit",
        "medleydb": "metadata",
        "slakh2100": "omitted",
        "folder": "labels",
    }.items():
        message = f"kind '{kind}' has no option 'splits'; it takes {accepted}"
        with pytest.raises(CorpusError, match=message):
            open_corpus(kind, tmp_path, splits="all")
    with pytest.raises(CorpusError, match="does not exist; give the root of the musdb18 corpus"):
        open_corpus("musdb18", tmp_path / "nowhere")


def test_other_readers_point_to_the_kind_that_fits(roots: dict[str, Path]) -> None:
    for wrong in ("musdb18", "moisesdb", "medleydb", "slakh2100", "demo"):
        for right, root in roots.items():
            if wrong != right:
                with pytest.raises(CorpusError, match=f"it looks like a corpus of kind {right}$"):
                    open_corpus(wrong, root)


def test_ids_are_the_same_wherever_the_corpus_lies(roots: dict[str, Path], tmp_path: Path) -> None:
    for kind, root in roots.items():
        before = list(open_corpus(kind, root).tracks())
        moved = list(open_corpus(kind, root.rename(tmp_path / f"moved {kind}")).tracks())
        ids = [[(t.track_id, s.stem_id) for t in ts for s in t.stems] for ts in (before, moved)]
        assert ids[0] == ids[1] != []
        assert not any(str(tmp_path) in text for pair in ids[0] for text in pair)
        assert before != moved  # files are absolute


def test_added_inspected_and_built_from_the_command_line(
    roots: dict[str, Path], tmp_path: Path, capsys
) -> None:
    home = str(tmp_path / "home")
    options = {"moisesdb": ["--option", "unit=type"], "slakh2100": ["--option", "omitted=true"]}
    expected = {
        "moisesdb": "2 stems by file, 1 by (category, type), counted here by type",
        "musdb18": "4 stems by file, 4 by (category, type), counted here by file",
        "slakh2100": "2 stems by file, 2 by (category, type), counted here by file",
        "medleydb": "2 stems by file, 2 by (category, type), counted here by file",
    }
    for kind, root in roots.items():
        extra = options.get(kind, [])
        assert stems(["--home", home, "corpus", "inspect", kind, str(root), *extra]) == 0
        out = capsys.readouterr().out
        assert expected[kind] in out
        assert stems(["--home", home, "corpus", "add", f"my-{kind}", kind, str(root), *extra]) == 0
        assert f"my-{kind} (1 track) is in" in capsys.readouterr().out
        assert stems(["--home", home, "corpus", "build", f"my-{kind}"]) == 0
        assert "is made: 1 track" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["add", "x", "musdb", "ROOT"], "corpus kind 'musdb' is unknown"),
        (["add", "x", "moisesdb", "ROOT/moisesdb/p"], "does: give that as the root"),
        (["inspect", "musdb18", "ROOT/slakh2100"], "it looks like a corpus of kind slakh2100"),
        (["inspect", "slakh2100", "ROOT/slakh2100", "--option", "omitted=no"], "true or false"),
        (["inspect", "musdb18", "ROOT/musdb18", "--option", "split=x"], "it takes none"),
    ],
)
def test_wrong_use_is_one_sentence(roots, tmp_path: Path, capsys, words, message) -> None:
    assert roots
    arguments = [word.replace("ROOT", str(tmp_path)) for word in words]
    try:
        code = stems(["--home", str(tmp_path / "home"), "corpus", *arguments])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "Traceback" not in error
