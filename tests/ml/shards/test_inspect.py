import argparse

import pytest

from ml.cli import shards as verb
from ml.settings import load_settings
from ml.shards.inspect import check_shards


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
