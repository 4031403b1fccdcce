from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pytest

from ml.artifacts import ArtifactError, DataLayout
from ml.retrieval.champion import checkpoint_path, read_champion, write_champion
from ml.retrieval.embed import embed_corpus
from ml.retrieval.embedding_files import StemRow, stem_table
from ml.retrieval.store import (
    CHUNK_TABLE,
    STEM_TABLE,
    database_uri,
    merge_corpus,
    publish_corpus,
)


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
    assert opened(uri).schema.names == columns.split()
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
