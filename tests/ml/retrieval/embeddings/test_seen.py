from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from ml.artifacts import DataLayout
from ml.corpora.corpus import open_corpus
from ml.corpora.table import build_corpus_tracks, read_corpus_tracks
from ml.retrieval.embeddings.source import (
    seen_of_corpus,
    seen_tracks,
)
from ml.tracks import song_key


@pytest.fixture
def table() -> pl.DataFrame:
    """A test corpus of five tracks; the last is silent."""
    rows = [
        ("new", "one", "h1", "A Band", "First", 1.0),
        ("new", "two", "h2", "A Band", "Second", 1.0),
        ("new", "three", "h3", "A Classic Education", "NightOwl", 1.0),
        ("new", "three", "h4", "A Classic Education", "NightOwl", 1.0),
        ("new", "four", "h5", None, "Untitled", 1.0),
        ("new", "five", "h6", "A Band", "Fifth", 0.0),
    ]
    columns = ["corpus", "track_id", "content_hash", "artist", "title", "active_s"]
    return pl.DataFrame(rows, schema=columns, orient="row")


def training_track(**known: Any) -> dict[str, Any]:
    return {"corpus": "old", "track_id": "x", "content_hash": [], **known}


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({"corpus": "new", "track_id": "one"}, {"one"}),
        ({"track_id": "one"}, set()),  # the same id in another corpus is another track
        ({"content_hash": "h2"}, {"two"}),
        ({"content_hash": ["h0", "h4"]}, {"three"}),
        ({"content_hash": None}, set()),
        ({"artist": "A CLASSIC EDUCATION", "title": "Night Owl"}, {"three"}),
        ({"artist": "A Band", "title": "Second (feat. Somebody)"}, {"two"}),
        ({"artist": "A Band", "title": "Third"}, set()),
        ({"artist": None, "title": "Untitled"}, set()),
        ({"artist": "A Band", "title": "Fifth"}, set()),  # silent: no query
    ],
)
def test_a_track_is_seen_by_id_content_or_name(
    table: pl.DataFrame, known: dict[str, Any], expected: set[str]
) -> None:
    assert seen_tracks(table, [training_track(**known)]) == expected


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("Beyoncé", "Halo"), ("beyonce", "HALO!")),
        (("Clara Berry & Wooldog", "The Bad Guys"), ("Clara Berry and Wooldog", "The Bad-Guys")),
        (("Somebody ft. Other", "Song"), ("somebody", "Song [featuring A. Third]")),
        (("Музыка", "Песня"), ("музыка", "ПЕСНЯ")),
    ],
)
def test_ways_of_writing_a_song(first: tuple[str, str], second: tuple[str, str]) -> None:
    assert song_key(*first) == song_key(*second)


def test_different_songs_stay_different() -> None:
    assert song_key("Band", "Defeat") != song_key("Band", "De")
    assert song_key("Band", "Part 1") != song_key("Band", "Part 2")
    assert song_key("Ab", "C") != song_key("A", "bC")
    assert song_key("Band", None) is None
    assert song_key("...", "Song") is None


def test_names_are_looked_up_in_the_home(
    write_corpus: Any, make_sine: Any, layout: DataLayout
) -> None:
    """The model was trained on ``old``; ``new`` holds the same song, mixed anew."""
    for name, band in (("old", 1), ("new", 2)):
        root = write_corpus(name, {"song": {"a": ("bass", make_sine(band, 0.5))}})
        csv = root / "corpus.csv"
        header, row = csv.read_text().splitlines()
        title = "Song (ft. X)" if name == "new" else "SONG"
        csv.write_text(f"{header},artist,title\n{row},Band,{title}\n")
        build_corpus_tracks(name, open_corpus("manifest", csv), layout)
    trained_on = [{"corpus": "old", "track_id": "song", "content_hash": ["?"]}]
    table = read_corpus_tracks(layout, "new")
    assert seen_tracks(table, trained_on) == set()
    assert seen_tracks(table, trained_on, layout) == {"song"}
    assert seen_of_corpus("new", layout, [[], trained_on]) == {"song"}
    elsewhere = [{"corpus": "never scanned", "track_id": "song"}]
    assert seen_tracks(table, elsewhere, layout) == set()
