from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pytest

from ml.artifacts import ArtifactError, DataLayout
from ml.music import tracks as music_tracks
from ml.music.tracks import TrackMusic, read_track_music
from ml.parquet import write_table
from ml.retrieval.champion.champion import write_champion
from ml.retrieval.embeddings.build import embed_corpus
from ml.retrieval.embeddings.files import StemRow, stem_table
from ml.retrieval.tables.inspect import describe_tables
from ml.retrieval.tables.publish import (
    CHUNK_TABLE,
    STEM_TABLE,
    count_rows,
    database_uri,
    hear_gallery,
    merge_corpus,
    publish_corpus,
)
from ml.retrieval.tables.search import StemTables, music_filter
from ml.training.models import checkpoint_path, read_champion


def rows(corpus: str, count: int, dim: int = 4) -> Any:
    stems = [
        StemRow(
            stem_id=f"song/it's {i}",
            track_id="song",
            corpus=corpus,
            split=None,
            label="bass",
            category="bass",
            labels=("bass",),
            duration_s=1.0,
            audio="a.wav",
        )
        for i in range(count)
    ]
    return stem_table(stems, np.eye(count, dim, dtype=np.float32) + 1)


def publish_rows(uri: str, corpus: str, count: int) -> None:
    merge_corpus(uri, STEM_TABLE, rows(corpus, count), corpus=corpus, model_id="m")


def opened(uri: str, name: str = STEM_TABLE) -> Any:
    return lancedb.connect(uri).open_table(name)


def test_publishing_again_changes_nothing_and_stems_that_left_disappear(tmp_path: Path) -> None:
    uri = str(tmp_path / "db")
    for count, expected in ((5, 5), (5, 5), (3, 3), (4, 4)):
        before = opened(uri).version if (tmp_path / "db").exists() else 1
        publish_rows(uri, "a", count)
        assert opened(uri).count_rows() == expected
        assert opened(uri).version == before + 1


def test_corpora_with_equal_stem_ids_coexist(tmp_path: Path) -> None:
    uri = str(tmp_path / "db")
    publish_rows(uri, "a", 5)
    publish_rows(uri, "b's", 7)
    publish_rows(uri, "a", 4)
    table = opened(uri)
    assert table.count_rows("corpus = 'a'") == 4
    assert table.count_rows("corpus = 'b''s'") == 7
    assert table.count_rows() == 11


def test_writers_at_once_do_not_duplicate(tmp_path: Path) -> None:
    uri = str(tmp_path / "db")
    with ThreadPoolExecutor(max_workers=4) as pool:  # each has its own connection
        list(pool.map(lambda corpus: publish_rows(uri, corpus, 200), "aaab"))
    assert opened(uri).count_rows("corpus = 'a'") == 200
    assert opened(uri).count_rows() == 400


def test_another_dimension_is_refused(tmp_path: Path) -> None:
    uri = str(tmp_path / "db")
    publish_rows(uri, "a", 5)
    with pytest.raises(ArtifactError, match="other columns or vectors"):
        merge_corpus(uri, STEM_TABLE, rows("a", 5, dim=6), corpus="a", model_id="m")


def test_vectors_of_another_model_are_refused(tmp_path: Path) -> None:
    uri = str(tmp_path / "db")
    publish_rows(uri, "a", 5)
    with pytest.raises(ArtifactError, match=r"those of model other \(its model: m;"):
        merge_corpus(uri, STEM_TABLE, rows("a", 5), corpus="a", model_id="other")
    assert opened(uri).count_rows() == 5


def test_a_corpus_may_be_named_like_a_condition(tmp_path: Path) -> None:
    uri = str(tmp_path / "db")
    publish_rows(uri, "a", 5)
    publish_rows(uri, "' OR '1'='1", 2)
    publish_rows(uri, "' OR '1'='1", 1)
    assert count_rows(uri, STEM_TABLE, "' OR '1'='1") == 1
    (table,) = describe_tables(uri)
    assert table.rows_by_corpus == {"' OR '1'='1": 1, "a": 5}


def test_a_file_is_merged_as_its_rows_are(tmp_path: Path) -> None:
    table = rows("a", 20_000)  # several batches
    write_table(table, tmp_path / "gallery.parquet")
    merge_corpus(str(tmp_path / "one"), STEM_TABLE, table, corpus="a", model_id="m")
    uri = str(tmp_path / "two")
    merge_corpus(uri, STEM_TABLE, tmp_path / "gallery.parquet", corpus="a", model_id="m")
    one, two = (opened(uri).to_arrow().sort_by("key") for uri in (str(tmp_path / "one"), uri))
    assert one.equals(two, check_metadata=True)
    assert opened(uri).version == 2


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_a_damaged_file_changes_nothing(tmp_path: Path, keep: float) -> None:
    uri, path = str(tmp_path / "db"), tmp_path / "gallery.parquet"
    publish_rows(uri, "a", 3)
    write_table(rows("a", 100), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(ArtifactError, match=r"gallery\.parquet is missing or damaged .*again"):
        merge_corpus(uri, STEM_TABLE, path, corpus="a", model_id="m")
    middle = bytearray(content)
    middle[100:200] = bytes(100)
    path.write_bytes(bytes(middle))
    with pytest.raises(ArtifactError, match=r"gallery\.parquet is missing or damaged"):
        merge_corpus(uri, STEM_TABLE, path, corpus="a", model_id="m")
    assert opened(uri).count_rows() == 3


def test_a_corpus_is_published_once(
    write_corpus: Any, make_sine: Any, layout: DataLayout, band_model: Any
) -> None:
    stems = {"a": ("bass", make_sine(2, 2.0)), "b": ("piano", make_sine(6, 2.0))}
    write_corpus("songs", {"one": stems})
    with pytest.raises(ArtifactError, match="stems embed songs"):
        publish_corpus(layout, "id-bands", "songs")
    embed_corpus("songs", [band_model()], layout, {})
    first = publish_corpus(layout, "id-bands", "songs")
    uri = database_uri(layout, "id-bands")
    versions = [opened(uri, name).version for name in (STEM_TABLE, CHUNK_TABLE)]
    again = publish_corpus(layout, "id-bands", "songs")
    assert (first.reused, again.reused) == (False, True)
    assert [opened(uri, name).version for name in (STEM_TABLE, CHUNK_TABLE)] == versions
    assert opened(uri).count_rows() == 2
    assert opened(uri, CHUNK_TABLE).count_rows() == 4
    columns = "key stem_id track_id corpus split label category labels duration_s audio vector"
    assert opened(uri).schema.names == [*columns.split(), "bpm", "musical_key"]
    lancedb.connect(uri).drop_table(STEM_TABLE)
    assert not publish_corpus(layout, "id-bands", "songs").reused
    assert opened(uri).count_rows() == 2


def test_the_champion_remembers_who_was_before(layout: DataLayout) -> None:
    with pytest.raises(ArtifactError, match="promoted"):
        read_champion(layout)
    first = write_champion(layout, "m1", layout.runs / "one" / "model")
    assert first.previous is None
    assert first.checkpoint == "runs/one/model"
    assert write_champion(layout, "m1", layout.runs / "one" / "model") == first
    named = write_champion(layout, "m1", layout.runs / "one" / "model", mlflow_version="3")
    assert (named.promoted_at, named.mlflow_version) == (first.promoted_at, "3")
    second = write_champion(layout, "m2", Path("/elsewhere/model"))
    assert read_champion(layout) == second
    assert (second.previous, second.mlflow_version) == ("m1", None)
    assert checkpoint_path(layout, second) == Path("/elsewhere/model")


def test_a_table_from_before_tempo_and_key_gets_both_with_its_next_publication(
    tmp_path: Path,
) -> None:
    uri = str(tmp_path / "db")
    publish_rows(uri, "old", 2)
    opened(uri).drop_columns(["bpm", "musical_key"])
    assert StemTables(uri).search(np.eye(4)[0], 1)[0].row.get("bpm") is None
    with pytest.raises(ValueError, match=r"published before .*stems embed CORPUS"):
        music_filter(StemTables(uri), "120", None)
    write_table(rows("new", 2), tmp_path / "gallery.parquet")
    heard = TrackMusic(
        track_id="song",
        content="",
        bpm=120.0,
        bpm_confidence=0.5,
        beats_s=[0.5],
        key="A minor",
        key_confidence=0.9,
        pitched=["song/it's 1"],
    )
    path = tmp_path / "gallery.parquet"
    merge_corpus(uri, STEM_TABLE, path, corpus="new", model_id="m", music={"song": heard})
    read = {
        row["key"]: (row["bpm"], row["musical_key"]) for row in opened(uri).to_arrow().to_pylist()
    }
    assert read == {
        "old/song/it's 0": (None, None),
        "old/song/it's 1": (None, None),
        "new/song/it's 0": (120.0, None),
        "new/song/it's 1": (120.0, "A minor"),
    }
    tables, minor = StemTables(uri), "new/song/it's 1"
    for bpm, key, count in (("118..122", None, 2), ("120", "Am", 1), ("90..119", None, 0)):
        hits = tables.search(np.eye(4)[0], 4, where=music_filter(tables, bpm, key))
        assert len(hits) == count
        assert not key or hits[0].row["key"] == minor
    for wrong in ("124..118", "fast", "118..", "-1"):
        with pytest.raises(ValueError, match="no range of tempi"):
            music_filter(tables, wrong, None)


def test_tracks_are_heard_once_and_published_with_tempo_and_key(
    write_corpus: Any, layout: DataLayout, band_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rate_hz = band_model.rate_hz
    time = np.arange(16 * rate_hz) / rate_hz
    since_beat = np.mod(time, 0.5)
    hits = np.exp(-since_beat / 0.05) * np.random.default_rng(0).standard_normal(len(time))
    chords = np.array([[57, 60, 64], [50, 57, 65], [52, 59, 68], [57, 60, 64]])  # A minor, D, E, A
    midi = np.repeat(chords, len(time) // 4, axis=0).T
    notes = np.sin(2 * np.pi * 440 * 2 ** ((midi - 69) / 12) * time).sum(axis=0) / 16
    stems = {"a": ("drums", 0.2 * hits), "b": ("piano", notes * np.exp(-since_beat))}
    write_corpus("songs", {"one": stems})
    embed_corpus("songs", [band_model()], layout, {})
    hear_gallery(layout, ["id-bands"], "songs")
    publish_corpus(layout, "id-bands", "songs")
    uri = database_uri(layout, "id-bands")
    table = opened(uri).to_arrow().sort_by("audio")
    assert table["bpm"].to_pylist() == [pytest.approx(120, rel=0.01)] * 2
    assert table["musical_key"].to_pylist() == [None, "A minor"]
    heard = read_track_music(layout, "songs")
    monkeypatch.setattr(music_tracks, "_hear", None)  # nothing is heard again
    hear_gallery(layout, ["id-bands"], "songs")
    assert read_track_music(layout, "songs") == heard
    assert publish_corpus(layout, "id-bands", "songs").reused
