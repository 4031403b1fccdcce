import argparse
from dataclasses import replace

import pytest

from ml.cli import shards as verb
from ml.corpora.label_embeddings import build_label_embeddings
from ml.corpora.table import build_corpus_tracks
from ml.settings import load_settings
from ml.shards.build import build_shards
from ml.shards.plan import BYTES_PER_STEM_S, DiskSpaceError, new_bytes, plan_build, read_inputs

STEM_S = 4 * 2 * (10 + 14 + 18) + 2 * 30
"""Six songs of 10, 14 or 18 s with four stems, and one of 30 s with two."""


@pytest.fixture
def prepared(flac_corpus, tmp_path):
    """A corpus with its tables, without shards."""
    corpus = flac_corpus.in_home(tmp_path / "home")
    corpus.encoder = replace(flac_corpus.encoder)
    build_corpus_tracks(corpus.name, corpus, corpus.layout)
    build_label_embeddings(corpus.name, corpus.layout, corpus.encoder)
    return corpus


def plan(corpus, **options):
    encoder = read_inputs(corpus.name, corpus.layout)[1]["encoder"]
    return plan_build(corpus.name, corpus.layout, corpus.config, encoder, **options)


def size(corpus, **options):
    return new_bytes(plan(corpus, **options), corpus.folder, corpus.config)


def test_a_plan_counts_hours_and_shards_before_and_after(prepared):
    before = plan(prepared)
    assert not prepared.folder.exists()  # planning writes nothing
    assert sum(len(task.tracks) for task in before.tasks.values()) == 7  # not the one-stem track
    assert before.encode_s == STEM_S
    assert [*before.copies, *before.finished, *before.replaced] == []
    assert size(prepared) == pytest.approx(BYTES_PER_STEM_S["flac"] * STEM_S)
    shards = prepared.build().summary["shards"]
    assert len(before.to_encode) == shards
    after = plan(prepared)
    assert (len(after.to_encode), len(after.finished), after.encode_s) == (0, shards, 0.0)
    assert size(prepared) == 0
    fresh = plan(prepared, fresh=True)
    assert (len(fresh.to_encode), len(fresh.finished), len(fresh.replaced)) == (shards, 0, shards)


def test_the_estimate_is_not_below_what_a_build_takes(prepared):
    estimate = size(prepared)
    prepared.build()
    made = sum(map(len, prepared.shard_bytes().values()))
    assert 0.5 * estimate < made < 1.1 * estimate


def test_a_changed_label_encoder_is_told_from_new_audio(prepared):
    prepared.build()
    prepared.encoder = replace(prepared.encoder, fingerprint="e" * 64)
    build_label_embeddings(prepared.name, prepared.layout, prepared.encoder)
    found = plan(prepared)
    assert len(found.copies) == len(found.replaced) == len(prepared.shard_bytes())
    assert (found.to_encode, found.encode_s) == ([], 0.0)
    assert size(prepared) == sum(map(len, prepared.shard_bytes().values()))


def test_a_disk_without_room_is_refused_before_anything_is_written(prepared):
    needed = size(prepared)
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
    for words in ("7 tracks, 0.11 h of stems", "to make: 1 (", "free; time: about"):
        assert words in printed
    assert not prepared.folder.exists()
