from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from ml.artifacts import ArtifactError, DataLayout
from ml.corpora.corpus import open_corpus
from ml.corpora.table import build_corpus_tracks
from ml.metrics import RETRIEVAL
from ml.parquet import read_table
from ml.retrieval.embeddings.build import embed_corpus
from ml.retrieval.embeddings.files import read_embeddings
from ml.retrieval.evaluation.controls import swap_mixes
from ml.retrieval.evaluation.evaluate import evaluate_retrieval
from ml.retrieval.evaluation.ranks import common_queries, retrieval_scores
from ml.scores.files import SCORE_COLUMNS, read_scores
from ml.scores.text import table_lines


def scores_of(layout: DataLayout, model: str) -> dict[str, dict[str, Any]]:
    return {
        row["metric"]: row
        for row in read_scores(layout)
        if row["model"] == model and "swapped" not in row["evaluation"]
    }


@pytest.mark.usefixtures("songs")
def test_scores_follow_from_the_ranks(layout: DataLayout, band_model: Any) -> None:
    embed_corpus("songs", [band_model("untrained")], layout, {})
    artifact = evaluate_retrieval("songs", layout, {"untrained": "id-untrained"})
    queries = read_table(artifact.path / "queries.parquet").to_pylist()
    assert len(queries) == 8
    scores = scores_of(layout, "untrained")
    assert set(scores) == set(RETRIEVAL)
    ranks = np.array([row["rank"] for row in queries])
    for metric, value in retrieval_scores(ranks, 8).items():
        assert scores[metric]["value"] == pytest.approx(value)
        assert scores[metric]["low"] <= value <= scores[metric]["high"]
    # the mix without the bass is the guitar: nearest is that guitar itself, then the song's bass
    # and the three other guitars tie, which counts against the query
    assert {row["rank"] for row in queries} == {5}
    assert all(row["nearest_stem_id"] != row["stem_id"] for row in queries)
    assert scores["right_song"]["value"] == 100
    assert scores["right_instrument"]["value"] == 0
    assert scores["right_song"]["chance"] == pytest.approx(100 * 2 / 8)
    assert scores["right_instrument"]["chance"] == pytest.approx(100 * 4 / 8)
    assert scores["recall@1"]["chance"] == pytest.approx(100 / 8)
    assert scores["recall@1"]["n_gallery"] == scores["recall@1"]["n_queries"] == 8


@pytest.mark.usefixtures("songs")
def test_rows_that_know_the_labels_stand_beside_the_models(
    layout: DataLayout, band_model: Any
) -> None:
    embed_corpus("songs", [band_model("untrained"), band_model("contrastive")], layout, {})
    names = {name: f"id-{name}" for name in ("untrained", "contrastive")}
    artifact = evaluate_retrieval("songs", layout, names)
    label = scores_of(layout, "label")
    assert set(RETRIEVAL) - set(label) == {"normalized_rank_median"}
    assert label["recall@1"]["value"] == pytest.approx(25)  # one of four basses or guitars
    assert label["recall@5"]["value"] == 100
    assert label["normalized_rank_mean"]["value"] == pytest.approx(100 * 2.5 / 8)
    assert label["within_label_rank"]["value"] == label["within_label_rank"]["chance"] == 50
    first = scores_of(layout, "label+contrastive")
    # the four guitars tie but for the song's own, which has its tone
    assert first["recall@1"]["value"] == 100
    assert first["within_label_rank"]["value"] == 0
    assert scores_of(layout, "contrastive")["within_label_rank"]["value"] == 0
    paired = scores_of(layout, "contrastive minus label")
    assert paired["within_label_rank"]["value"] == -50
    assert "normalized_rank_median" not in paired
    assert artifact.summary["intervals"] == "t interval over 4 tracks"
    assert "within" not in artifact.summary
    queries = read_table(artifact.path / "queries.parquet").to_pylist()
    assert {row["model"] for row in queries} == set(names)  # what the instruments are told of


def test_tracks_of_one_title_are_one_song_to_intervals_and_swapped_mixes(
    tmp_path: Path, make_sine: Any, layout: DataLayout, band_model: Any
) -> None:
    lines = ["track_id,audio,labels,title"]
    for number in range(6):
        for place, label in enumerate(("bass", "guitar")):
            name = f"{number}-{label}.wav"
            soundfile.write(tmp_path / name, make_sine(3 * number + place, 1.0), 16_000)
            lines.append(f"{number},{name},{label},song {number // 3}")
    (tmp_path / "songs.csv").write_text("\n".join(lines))
    build_corpus_tracks("songs", open_corpus("manifest", tmp_path / "songs.csv"), layout)
    embed_corpus("songs", [band_model()], layout, {})
    artifact = evaluate_retrieval("songs", layout, {"bands": "id-bands"})
    assert artifact.summary["intervals"] == "t interval over 2 tracks"
    embeddings = {"bands": read_embeddings(layout, "id-bands", "songs")}
    gallery, queries, _ = common_queries("songs", embeddings)
    assert set(gallery.songs) == {"0", "3"}
    _, swapped = swap_mixes(gallery, queries, 0)
    assert swapped.mixes is not None
    assert (gallery.songs[swapped.mixes] != gallery.songs[swapped.targets]).all()


@pytest.mark.parametrize("label", ["only {}", ""])
def test_without_labels_in_common_there_is_no_place_within_them(
    write_corpus: Any, make_sine: Any, layout: DataLayout, band_model: Any, label: str
) -> None:
    stems = {f"s{i}": (label.format(i), make_sine(5 + i, 1.0)) for i in range(3)}
    write_corpus("lonely", {"a": stems})
    embed_corpus("lonely", [band_model()], layout, {})
    artifact = evaluate_retrieval("lonely", layout, {"bands": "id-bands"})
    assert "in label –: no query's label is that of another stem" in artifact.summary["within"]
    assert artifact.summary["intervals"] == "none: one track only"
    assert artifact.summary["swapped"] == "mix swapped –: there is one track only"
    assert not {"within_label_rank", "within_category_rank"} & set(scores_of(layout, "bands"))
    lines = table_lines("retrieval", read_scores(layout, evaluation="retrieval"))
    assert lines[1].split()[:4] == ["in", "label", "in", "category"]
    assert lines[2].split()[:3] == ["bands", "–", "–"]
    assert lines[-2:] == [
        "in label –: no query's label is that of another stem",
        "in category –: no query's category is that of another stem",
    ]


@pytest.mark.usefixtures("songs")
def test_conditions_turn_the_nearest_into_the_right_instrument(
    layout: DataLayout, band_model: Any
) -> None:
    vectors = {name: np.eye(40, dtype=np.float32)[b] for name, b in (("bass", 2), ("guitar", 8))}
    models = [
        band_model("untrained"),
        band_model("film", phase="jepa", condition_weight=1e5),
        band_model("film-nce", phase="jepa", condition_weight=1e5),
    ]
    embed_corpus("songs", models, layout, vectors)
    names = {model.name: model.model_id for model in models}
    artifact = evaluate_retrieval("songs", layout, names)
    film = scores_of(layout, "film")
    assert film["right_instrument"]["value"] == 100
    assert film["recall@1"]["value"] == 100
    paired = scores_of(layout, "film minus untrained")
    assert paired["recall@1"]["evaluation"] == "retrieval-paired"
    assert paired["recall@1"]["value"] == 100
    assert (paired["recall@1"]["low"], paired["recall@1"]["chance"]) == (100, 0)
    assert paired["normalized_rank_mean"]["value"] < 0
    assert not scores_of(layout, "untrained minus untrained")
    again = evaluate_retrieval("songs", layout, names)
    assert again.reused
    assert again.fingerprint == artifact.fingerprint
    assert not evaluate_retrieval("songs", layout, names, seed=1).reused


@pytest.mark.usefixtures("songs")
def test_tracks_seen_in_training_are_no_queries(layout: DataLayout, band_model: Any) -> None:
    seen = [{"corpus": "songs", "track_id": "song1", "content_hash": None}]
    models = [band_model("one"), band_model("two", training_tracks=seen)]
    embed_corpus("songs", models, layout, {})
    artifact = evaluate_retrieval("songs", layout, {"one": "id-one", "two": "id-two"})
    assert artifact.summary["seen_queries_dropped"] == 2
    for name in ("one", "two"):
        recall = scores_of(layout, name)["recall@1"]
        assert (recall["n_queries"], recall["n_gallery"]) == (6, 8)
    queries = read_table(artifact.path / "queries.parquet").to_pylist()
    assert {row["track_id"] for row in queries} == {"song0", "song2", "song3"}


@pytest.mark.usefixtures("songs")
def test_rows_over_seen_tracks_are_marked(layout: DataLayout, band_model: Any) -> None:
    everything = [{"corpus": "songs", "track_id": f"song{i}"} for i in range(4)]
    models = [band_model("one"), band_model("three", training_tracks=everything)]
    embed_corpus("songs", models, layout, {})

    def evaluations() -> set[str]:
        names = {row["evaluation"] for row in read_scores(layout)}
        return {name for name in names if "swapped" not in name}

    artifact = evaluate_retrieval("songs", layout, {"three": "id-three"})  # nothing else is left
    assert evaluations() == {"retrieval-seen"}
    assert artifact.summary["only_seen_tracks"]
    assert scores_of(layout, "three")["recall@1"]["n_queries"] == 8
    assert read_table(artifact.path / "queries.parquet").num_rows == 0

    # known to be seen though the embeddings do not say so: the rule of today counts
    evaluate_retrieval("songs", layout, {"one": "id-one"})
    assert evaluations() == {"retrieval", "retrieval-paired"}
    known = {"one": everything[:1]}
    artifact = evaluate_retrieval("songs", layout, {"one": "id-one"}, training_tracks=known)
    assert (artifact.summary["seen_queries_dropped"], evaluations()) == (
        2,
        {"retrieval", "retrieval-paired"},
    )
    artifact = evaluate_retrieval(
        "songs", layout, {"one": "id-one"}, training_tracks=known, has_seen_rows=True
    )
    counts = {row["evaluation"]: row["n_queries"] for row in read_scores(layout)}
    swapped = dict.fromkeys(("retrieval-swapped", "retrieval-swapped-loss"), 6)
    assert counts == {"retrieval": 6, "retrieval-paired": 6, "retrieval-seen": 2, **swapped}
    assert not artifact.summary["only_seen_tracks"]
    assert read_table(artifact.path / "queries.parquet").num_rows == 6


def test_unlabelled_stems_have_no_right_instrument(
    write_corpus: Any, make_sine: Any, layout: DataLayout, band_model: Any
) -> None:
    write_corpus(
        "half",
        {"a": {"bass": ("bass", make_sine(2, 1.0)), "other": ("", make_sine(5, 1.0))}},
    )
    embed_corpus("half", [band_model()], layout, {})
    evaluate_retrieval("half", layout, {"bands": "id-bands"})
    scores = scores_of(layout, "bands")
    assert scores["right_instrument"]["n_queries"] == 1
    assert scores["recall@1"]["n_queries"] == 2
    assert scores["recall@1"]["low"] is None  # one track: no interval
    assert list(scores["recall@1"]) == list(SCORE_COLUMNS)


@pytest.mark.usefixtures("songs")
def test_bad_input(layout: DataLayout, band_model: Any) -> None:
    assert read_scores(layout) == []
    with pytest.raises(ValueError, match="no models"):
        evaluate_retrieval("songs", layout, {})
    with pytest.raises(ArtifactError, match="stems embed songs"):
        evaluate_retrieval("songs", layout, {"bands": "id-bands"})
    embed_corpus("songs", [band_model()], layout, {})
    with pytest.raises(ArtifactError, match="--conditioning coarse"):
        evaluate_retrieval("songs", layout, {"bands": "id-bands"}, conditionings=["coarse"])
    evaluate_retrieval("songs", layout, {"bands": "id-bands"})
    (layout.scores("retrieval", "songs") / "scores.parquet").write_bytes(b"no")
    with pytest.raises(ArtifactError, match="damaged"):
        read_scores(layout)
