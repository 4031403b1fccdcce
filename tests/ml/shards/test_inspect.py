import argparse
from pathlib import Path

import pytest

from ml.artifacts import ArtifactError, read_json
from ml.cli import shards as verb
from ml.corpora.table import read_corpus_tracks
from ml.settings import load_settings
from ml.shards.index import read_shards_manifest
from ml.shards.inspect import check_shards, new_training_hours
from ml.training.models import read_models


def run(corpus, *words):
    parser = argparse.ArgumentParser()
    verb.add_parser(parser.add_subparsers())
    args = parser.parse_args(["shards", *words])
    return args.run(args, load_settings(corpus.layout.home))


def test_counts_add_up(flac_corpus):
    report = check_shards(flac_corpus.folder)
    assert report.problems == ()
    assert report.summary["segments"] == report.summary["train_segments"]
    # Every segment of the six songs stores the bass, which sounds all the time.
    assert report.stored_stems["bass guitar"] == report.summary["segments"] - 1
    assert report.stored_stems["music"] > 0
    stored_s = report.summary["stem_hours"] * 3600
    assert stored_s > 4.9 * sum(report.stored_stems.values())


def test_inspect_prints_hours_and_labels(flac_corpus, capsys):
    assert run(flac_corpus, "inspect", "demo") == 0
    printed = capsys.readouterr().out
    for word in ("stem_hours", "dropped_hours", "train", "bass guitar", "every checksum is right"):
        assert word in printed


def test_inspect_finds_a_flipped_byte_and_a_lost_shard(make_corpus, tmp_path, capsys):
    corpus = make_corpus(tmp_path)
    corpus.build()
    first, second, *_ = sorted(corpus.folder.glob("*.tar"))
    data = bytearray(first.read_bytes())
    data[5000] ^= 1
    first.write_bytes(data)
    second.unlink()
    assert run(corpus, "inspect", "demo") == 1
    printed = capsys.readouterr().err
    assert f"{first} has SHA-256" in printed
    assert f"{second} does not exist" in printed
    assert "--fresh" in printed


def test_build_says_what_it_made_and_that_it_is_current(flac_corpus, tmp_path, capsys):
    corpus = flac_corpus.in_home(tmp_path)
    corpus.build()
    for words in ("is made: 1 shards", "is up to date: 1 shards"):  # by the settings: 16 s, 256
        assert run(corpus, "build", "demo", "--workers", "1") == 0
        assert words in capsys.readouterr().out


def test_workers_below_one_are_wrong_use(flac_corpus):
    with pytest.raises(SystemExit, match="2"):
        run(flac_corpus, "build", "demo", "--workers", "0")


def test_what_a_model_was_trained_on_is_not_new(shared_home: Path):
    layout = load_settings(shared_home).layout
    trained_on = read_json(read_models(layout)["film"] / "manifest.json")["training_tracks"]
    assert trained_on
    assert new_training_hours(layout, ["demo"], trained_on) == 0
    first = trained_on[0]["track_id"]
    table = read_corpus_tracks(layout, "demo")
    hours = max(table.filter(table["track_id"] == first)["duration_s"].to_list()) / 3600
    assert new_training_hours(layout, ["demo"], trained_on[1:]) == pytest.approx(hours)


def test_without_a_model_every_training_track_is_new(shared_home: Path):
    layout = load_settings(shared_home).layout
    shards = read_shards_manifest(layout.shards("demo"))["shards"]
    used = {track for shard in shards if shard["split"] == "train" for track in shard["tracks"]}
    lengths = {}
    for row in read_corpus_tracks(layout, "demo").iter_rows(named=True):
        if row["track_id"] in used:
            lengths[row["track_id"]] = max(lengths.get(row["track_id"], 0), row["duration_s"])
    assert new_training_hours(layout, ["demo"], []) == pytest.approx(sum(lengths.values()) / 3600)


def test_a_corpus_without_shards_is_an_error(shared_home: Path):
    layout = load_settings(shared_home).layout
    with pytest.raises(ArtifactError, match="stems shards build demo-plain"):
        new_training_hours(layout, ["demo-plain"], [])
