import argparse
from dataclasses import replace

import pytest

from ml.cli import shards as verb
from ml.corpora.label_embeddings import build_label_embeddings
from ml.corpora.table import build_corpus_tracks
from ml.settings import load_settings
from ml.shards.build import build_shards
from ml.shards.estimate import (
    DEFAULT_RATES,
    DiskSpaceError,
    estimate_build,
    read_rates,
    record_rates,
)


@pytest.fixture
def prepared(flac_corpus, tmp_path):
    """A corpus with its tables, without shards."""
    corpus = flac_corpus.in_home(tmp_path / "home")
    corpus.encoder = replace(flac_corpus.encoder)
    build_corpus_tracks(corpus.name, corpus, corpus.layout)
    build_label_embeddings(corpus.name, corpus.layout, corpus.encoder)
    return corpus


def estimate(corpus, **options):
    return estimate_build(corpus.name, corpus.layout, corpus.config, **options)


def test_the_estimate_counts_tracks_hours_and_shards_before_and_after(prepared):
    before = estimate(prepared)
    assert not prepared.folder.exists()  # a dry run writes nothing
    assert before.tracks == 7  # all but the track with a single stem
    # Six songs of 10, 14 or 18 s with four stems, and one of 30 s with two.
    assert before.stem_s == before.encode_s == pytest.approx(4 * 2 * (10 + 14 + 18) + 2 * 30)
    assert (before.copied, before.kept, before.replaced) == (0, 0, 0)
    assert not before.rates.is_measured
    artifact = prepared.build()
    assert before.made == artifact.summary["shards"]
    after = estimate(prepared)
    assert (after.made, after.kept, after.encode_s) == (0, before.made, 0.0)
    assert (after.new_bytes, after.duration_s) == (0, 0)
    fresh = estimate(prepared, fresh=True)
    assert (fresh.made, fresh.kept, fresh.replaced) == (before.made, 0, before.made)


def test_a_changed_label_encoder_is_told_from_new_audio(prepared):
    prepared.build()
    prepared.encoder = replace(prepared.encoder, fingerprint="e" * 64)
    build_label_embeddings(prepared.name, prepared.layout, prepared.encoder)
    found = estimate(prepared)
    assert found.copied == found.replaced == len(prepared.shard_bytes())
    assert (found.made, found.encode_s) == (0, 0.0)
    assert found.new_bytes == sum(map(len, prepared.shard_bytes().values()))


def test_the_last_build_sets_the_rates(prepared):
    prepared.build()
    rates = estimate(prepared).rates
    size = sum(map(len, prepared.shard_bytes().values()))
    assert rates.is_measured
    assert rates.bytes_per_stem_s == pytest.approx(size / 396, abs=0.1)
    again = estimate(prepared, fresh=True)
    assert again.new_bytes == pytest.approx(size, rel=1e-3)
    assert again.duration_s == pytest.approx(396 / rates.stem_s_per_s, rel=1e-3)
    halved = estimate(prepared, fresh=True, workers=2)
    assert halved.duration_s == pytest.approx(again.duration_s / 2)


def test_short_builds_and_damaged_records_leave_the_defaults(tmp_path):
    record_rates(tmp_path, "flac", stem_s=2.0, new_bytes=1, process_s=1.0)
    assert read_rates(tmp_path, "flac") == DEFAULT_RATES["flac"]
    (tmp_path / "rates.json").write_text("[1, 2")
    assert read_rates(tmp_path, "flac") == DEFAULT_RATES["flac"]
    record_rates(tmp_path, "flac", stem_s=100.0, new_bytes=500, process_s=0.5)
    record_rates(tmp_path, "pcm16", stem_s=100.0, new_bytes=500, process_s=0.25)
    assert read_rates(tmp_path, "flac").stem_s_per_s == 200.0
    assert read_rates(tmp_path, "pcm16").stem_s_per_s == 400.0


def test_a_disk_without_room_is_refused_before_anything_is_written(prepared):
    needed = estimate(prepared).new_bytes
    with pytest.raises(DiskSpaceError, match=r"MB free, but . new shards need .* MB .*stems gc"):
        build_shards(prepared.name, prepared.layout, prepared.config, free_bytes=int(needed))
    assert not list(prepared.folder.glob("[!.]*"))
    build_shards(prepared.name, prepared.layout, prepared.config, free_bytes=int(1.2 * needed))
    # What is there needs no room.
    build_shards(prepared.name, prepared.layout, prepared.config, free_bytes=0)


def test_dry_run_prints_hours_disk_and_time(prepared, capsys):
    parser = argparse.ArgumentParser()
    verb.add_parser(parser.add_subparsers())
    args = parser.parse_args(["shards", "build", "demo", "--dry-run", "--workers", "2"])
    assert args.run(args, load_settings(prepared.layout.home)) == 0
    printed = capsys.readouterr().out
    for words in ("7 tracks, 0.11 h of stems", "to make: 1 (", "free; time: about", "assumed"):
        assert words in printed
    assert not prepared.folder.exists()
