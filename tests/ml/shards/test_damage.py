"""Damaged shards: an error that names shard and sample, or skipped, counted and replaced."""

import shutil
from collections import Counter
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from ml.artifacts import ArtifactError
from ml.shards.folders import LocalFolder, Shard
from ml.shards.index import DamagedShardError, index_path, read_index, read_shards_manifest
from ml.shards.members import ShardMembers
from ml.shards.pairs import PairConfig
from ml.shards.reader import ShardPairs

CONFIG = PairConfig(chunk_s=2.0, min_active_s=0.3)
SKIPPING = replace(CONFIG, damaged="skip")


@pytest.fixture
def folder(flac_corpus, tmp_path):
    """A copy of the shards, to be damaged."""
    return shutil.copytree(flac_corpus.folder, tmp_path / "demo")


def open_pairs(folder, config=SKIPPING, *, batch_size=4, **options):
    return ShardPairs([folder], config=config, batch_size=batch_size, seed=0, **options)


def take(pairs, n, start=0):
    return list(islice(pairs.batches(start), n))


def indexes(folder):
    names = [entry["name"] for entry in read_shards_manifest(folder)["shards"]]
    return [read_index(index_path(folder, name)) for name in names]


def break_audio(folder, segment_key):
    """Flip bits all over the audio of a sample."""
    for index in indexes(folder):
        for segment in index.segments:
            if segment.key == segment_key:
                data = bytearray((folder / index.name).read_bytes())
                for stem in segment.stems:
                    for place in range(stem.offset + 100, stem.offset + stem.size, 997):
                        data[place] ^= 0xFF
                (folder / index.name).write_bytes(data)
                return folder / index.name
    raise AssertionError(segment_key)


def test_a_broken_sample_is_an_error_that_names_it_or_is_replaced(folder):
    broken = take(open_pairs(folder), 1)[0].keys[2]
    path = break_audio(folder, broken)
    with pytest.raises(DamagedShardError, match=rf"{path} is damaged at sample {broken}: stem .*/"):
        take(open_pairs(folder, CONFIG), 1)
    pairs = open_pairs(folder)
    batch = take(pairs, 1)[0]
    assert broken not in batch.keys
    assert [x.sample for x in batch.skipped] == [broken]
    assert pairs.counts.skipped == {str(path): 1}
    assert len(set(batch.track.tolist())) == 4
    assert (batch.target != 0).any(-1).all()


def test_rows_without_damage_stay_as_they_are(folder):
    before = take(open_pairs(folder), 5)
    break_audio(folder, before[0].keys[0])
    for one, other in zip(before, take(open_pairs(folder), 5), strict=True):
        for row, key in enumerate(one.keys):
            if key != before[0].keys[0]:
                assert other.keys[row] == key
                assert torch.equal(other.target[row], one.target[row])
                assert torch.equal(other.context[row], one.context[row])


@pytest.mark.parametrize("truncate", [True, False], ids=["truncated", "missing"])
def test_a_lost_tar_is_counted_by_sample_and_said_once(folder, truncate, caplog):
    index = indexes(folder)[1]
    path = folder / index.name
    if truncate:
        path.write_bytes(path.read_bytes()[:-1024])
    else:
        path.unlink()
    with pytest.raises(DamagedShardError, match=rf"{path} is damaged at sample"):
        take(open_pairs(folder, CONFIG), 20)
    caplog.clear()
    pairs = open_pairs(folder)
    batches = take(pairs, 2 * pairs.batches_per_epoch)
    lost = {segment.key for segment in index.segments}
    assert not lost & {key for batch in batches for key in batch.keys}
    assert pairs.counts.skipped[str(path)] == sum(len(batch.skipped) for batch in batches) > 0
    assert caplog.text.count("skipped and counted") == 1
    assert pairs.counts.pairs == 4 * len(batches)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_count_comes_out_of_worker_processes(folder, workers):
    first, second, *_ = indexes(folder)
    (folder / first.name).unlink()
    (folder / second.name).write_bytes(b"")
    pairs = open_pairs(folder, workers=workers)
    keys = [batch.keys for batch in take(pairs, 8)]
    alone = open_pairs(folder)
    assert keys == [batch.keys for batch in take(alone, 8)]
    assert pairs.counts == alone.counts
    assert set(pairs.counts.skipped) == {str(folder / x.name) for x in (first, second)}


def test_ranks_replace_without_talking_and_share_no_track(folder):
    first, *_ = indexes(folder)
    (folder / first.name).unlink()
    whole = take(open_pairs(folder, batch_size=2), 12)
    parts = [take(open_pairs(folder, batch_size=2, rank=rank, world=2), 12) for rank in (0, 1)]
    for batch, *rows in zip(whole, *parts, strict=True):
        assert batch.keys == [key for row in rows for key in row.keys]
        assert len(set(batch.track.tolist())) == 2
    assert sum(len(batch.skipped) for batch in whole) > 0


def test_a_run_over_damage_resumes_at_any_batch(folder):
    break_audio(folder, take(open_pairs(folder), 1)[0].keys[0])
    (folder / indexes(folder)[2].name).unlink()
    batches = take(open_pairs(folder), 9)
    for start in (1, 4, 8):
        again = take(open_pairs(folder), 1, start)[0]
        assert again.keys == batches[start].keys
        assert torch.equal(again.target, batches[start].target)


def test_the_peak_rule_skips_too(folder):
    rule = replace(SKIPPING, rule="peak", min_active_s=0.1)
    whole = take(open_pairs(folder, rule), 1)[0]
    break_audio(folder, whole.keys[1])
    pairs = open_pairs(folder, rule)
    batch = take(pairs, 1)[0]
    assert whole.keys[1] not in batch.keys
    assert pairs.counts.skipped.total() == 1


def test_a_missing_index_is_named_or_counts_with_all_its_segments(folder, caplog):
    index = indexes(folder)[0]
    path = index_path(folder, index.name)
    path.unlink()
    with pytest.raises(DamagedShardError, match=rf"{index.name} is damaged: its index: {path}"):
        open_pairs(folder, CONFIG)
    pairs = open_pairs(folder)
    assert pairs.counts.skipped == {str(folder / index.name): len(index.segments)}
    assert caplog.text.count("skipped and counted") == 1
    assert len(take(pairs, 1)) == 1


def test_a_corrupt_index_is_named(folder):
    path = index_path(folder, indexes(folder)[0].name)
    path.write_text("{")
    with pytest.raises(DamagedShardError, match=rf"{path} is not JSON"):
        open_pairs(folder, CONFIG)


def test_nothing_left_to_read_is_an_error(folder):
    for path in folder.glob("*.tar"):
        path.unlink()
    with pytest.raises(ArtifactError, match="no segment can be read in place of sample"):
        take(open_pairs(folder), 1)


@pytest.mark.parametrize("keeps_decoded", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_a_flipped_bit_in_flac_is_never_heard(folder, seed, keeps_decoded):
    """A flip anywhere in a member gives the very samples, or the error; nothing between.

    Which of both does not depend on whether decoded audio is kept.
    """
    rng = np.random.default_rng(seed)
    found = Counter()
    index = indexes(folder)[0]
    path = folder / index.name
    good = path.read_bytes()
    for _ in range(40):
        segment = index.segments[rng.integers(len(index.segments))]
        stem = segment.stems[rng.integers(len(segment.stems))]
        start = int(rng.integers(segment.samples - 32000))
        right, heard = np.empty(32000, np.int16), np.empty(32000, np.int16)
        members = ShardMembers([(LocalFolder(folder), Shard.of(index))])
        members.read_chunk(0, segment, stem, start, right)
        data = bytearray(good)
        place = stem.offset + int(rng.integers(stem.size))
        data[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        outcomes = []
        for keeps in {False, keeps_decoded}:
            members = ShardMembers([(LocalFolder(folder), Shard.of(index))], keeps_decoded=keeps)
            try:
                members.read_chunk(0, segment, stem, start, heard)
                outcomes.append("same" if np.array_equal(heard, right) else "wrong")
            except DamagedShardError as error:
                outcomes.append("error" if error.damage.sample == segment.key else "wrong sample")
        assert len(set(outcomes)) == 1
        found[outcomes[0]] += 1
        path.write_bytes(good)
    assert set(found) == {"same", "error"}
    assert min(found.values()) > 3
