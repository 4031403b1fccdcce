from __future__ import annotations

from pathlib import Path

import pytest

from ml.corpora.readers.manifest import ManifestCorpus
from ml.tracks import CorpusError


def _corpus(tmp_path: Path, text: str) -> ManifestCorpus:
    path = tmp_path / "corpus.csv"
    path.write_text(text, encoding="utf-8")
    return ManifestCorpus(path)


def test_rows_become_tracks_and_stems_in_order(tmp_path: Path) -> None:
    corpus = _corpus(
        tmp_path,
        "track_id,audio,labels,split,artist\n"
        "b,x/guitar.wav,guitar > electric guitar,train,Ann\n"
        "a,/abs/drums.wav,drums,,\n"
        "b,x/bass.wav,,,\n",
    )
    b, a = corpus.tracks()
    assert (b.track_id, b.split, b.artist, b.title) == ("b", "train", "Ann", None)
    assert (a.track_id, a.split, a.artist) == ("a", None, None)
    assert [stem.stem_id for stem in b.stems] == ["b/guitar", "b/bass"]
    assert b.stems[0].files == (tmp_path / "x/guitar.wav",)
    assert b.stems[0].labels == ("guitar", "electric guitar")
    assert b.stems[1].labels == ()
    assert a.stems[0].files == (Path("/abs/drums.wav"),)
    assert list(corpus.tracks()) == [b, a]


def test_rows_with_one_stem_id_are_files_of_one_stem(tmp_path: Path) -> None:
    (track,) = _corpus(
        tmp_path,
        "track_id,audio,labels,stem_id,start_s\n"
        "t,kick.wav,drums > kick drum,drums,1.5\n"
        "t,bass.wav,bass,,\n"
        "t,snare.wav,drums > snare drum,drums,1.5\n"
        "t,room.wav,,drums,1.5\n",
    ).tracks()
    drums, bass = track.stems
    assert [path.name for path in drums.files] == ["kick.wav", "snare.wav", "room.wav"]
    assert (drums.stem_id, drums.labels, drums.start_s) == ("t/drums", ("drums",), 1.5)
    assert (bass.stem_id, bass.start_s) == ("t/bass", 0.0)


def test_equal_file_names_get_their_path_as_id_whatever_the_order(tmp_path: Path) -> None:
    rows = ["t,left/gtr.wav,", "t,right/gtr.wav,", "t,bass.wav,"]
    ids = []
    for order in (rows, rows[::-1]):
        (track,) = _corpus(tmp_path, "\n".join(["track_id,audio,labels", *order])).tracks()
        ids.append({stem.stem_id for stem in track.stems})
    assert ids[0] == ids[1] == {"t/left/gtr.wav", "t/right/gtr.wav", "t/bass"}


def test_a_byte_order_mark_and_quoted_commas_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "corpus.csv"
    path.write_text('\ufefftrack_id,audio,labels\nt,"a, b.wav",drums\n', encoding="utf-8")
    (track,) = ManifestCorpus(path).tracks()
    assert track.stems[0].files[0].name == "a, b.wav"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column track_id and no column audio and no column labels"),
        ("track_id,audio\nt,a.wav\n", "no column labels"),
        ("track_id;audio;labels\nt;a.wav;\n", "separated by commas"),
        ("track_id,audio,labels\n", "lists no audio"),
        ("track_id,audio,labels\n,a.wav,\n", "line 2 has no track_id"),
        ("track_id,audio,labels\nt,,\n", "line 2 has no audio"),
        ("track_id,audio,labels\nt,a.wav,x,y\n", "line 2 has more cells"),
        ("track_id,audio,labels\nt,a.wav,\nt,a.wav,\n", r"line 3 lists a.wav again .* line 2"),
        ("track_id,audio,labels,split\nt,a.wav,,dev\n", "split 'dev'; expected train, valid"),
        ("track_id,audio,labels,split\nt,a.wav,,train\nt,b.wav,,test\n", "one split"),
        ("track_id,audio,labels,start_s\nt,a.wav,,soon\n", "start_s 'soon'"),
        ("track_id,audio,labels,start_s\nt,a.wav,,-1\n", "start_s '-1'"),
        (
            "track_id,audio,labels,stem_id,start_s\nt,a.wav,,s,0\nt,b.wav,,s,1\n",
            "the same start_s",
        ),
    ],
)
def test_wrong_lists_name_the_file_and_the_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(CorpusError, match=message) as caught:
        _corpus(tmp_path, text)
    assert str(tmp_path / "corpus.csv") in str(caught.value)


def test_not_a_csv(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(bytes(range(256)) * 10)
    with pytest.raises(CorpusError, match="not a CSV file in UTF-8"):
        ManifestCorpus(tmp_path / "a.csv")
    with pytest.raises(CorpusError, match="is a folder; expected a CSV"):
        ManifestCorpus(tmp_path)
