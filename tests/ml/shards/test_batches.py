"""Laws of batches as a whole: over ranks, workers, epochs, resumption, rules and payloads."""

import io
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import soundfile
import torch

from ml.audio.activity import ActivityConfig, active_seconds
from ml.shards.folders import LocalFolder, Shard
from ml.shards.index import IndexedSegment, IndexedStem, read_index
from ml.shards.members import MEMBER_BLOCK, ShardMembers
from ml.shards.pairs import PairConfig
from ml.shards.reader import ShardPairs
from ml.shards.split import PackedSegments

CONFIG = PairConfig(chunk_s=2.0, min_active_s=0.3, window_shards=2)


def open_pairs(corpus, *, batch_size=4, seed=0, config=CONFIG, **options):
    return ShardPairs([corpus.folder], config=config, batch_size=batch_size, seed=seed, **options)


def take(pairs, n, start=0):
    return list(islice(pairs.batches(start), n))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("world", "workers"), [(1, 0), (2, 1), (4, 2)])
def test_every_segment_once_an_epoch_over_ranks_and_workers(pcm16_corpus, seed, world, workers):
    ranks = [
        open_pairs(pcm16_corpus, seed=seed, rank=rank, world=world, workers=workers)
        for rank in range(world)
    ]
    n = ranks[0].batches_per_epoch
    left_over = []
    for epoch in range(2):
        parts = [list(pairs.batches(epoch * n, (epoch + 1) * n)) for pairs in ranks]
        batches = list(zip(*parts, strict=True))
        keys = [key for parts in batches for part in parts for key in part.keys]
        assert len(keys) == len(set(keys)) == 4 * n
        for parts in batches:
            tracks = torch.cat([part.track for part in parts]).tolist()
            assert len(set(tracks)) == 4
        left_over.append(frozenset(_all_keys(pcm16_corpus) - set(keys)))
    assert len(left_over[0]) == ranks[0].n_segments - 4 * n
    assert left_over[0] != left_over[1] or not left_over[0]


def _all_keys(corpus):
    indexes = (read_index(path) for path in corpus.folder.glob("*.index.json"))
    return {segment.key for index in indexes for segment in index.segments}


@pytest.mark.parametrize("start", [1, 5, 13])
def test_resuming_is_one_integer_whatever_the_workers(pcm16_corpus, start):
    through = take(open_pairs(pcm16_corpus), start + 3)[start:]
    for workers in (0, 2):
        resumed = take(open_pairs(pcm16_corpus, workers=workers), 3, start)
        for one, other in zip(through, resumed, strict=True):
            assert one.keys == other.keys
            assert one.labels == other.labels
            assert torch.equal(one.target, other.target)
            assert torch.equal(one.context, other.context)


def test_a_stop_is_the_number_of_the_first_batch_left_out(pcm16_corpus):
    assert len(list(open_pairs(pcm16_corpus).batches(3, 8))) == 5
    assert len(list(open_pairs(pcm16_corpus, workers=2).batches(3, 8))) == 5


@pytest.mark.parametrize("rule", ["intervals", "peak"])
@pytest.mark.parametrize("seed", range(2))
def test_neither_rule_gives_a_silent_target_or_context(flac_corpus, rule, seed):
    """Each side of a pair sounds for ``min_active_s``, or has the peak that the rule asks for."""
    config = PairConfig(chunk_s=2.0, min_active_s=0.3, rule=rule)
    pairs = open_pairs(flac_corpus, config=config, seed=seed)
    quiet = ActivityConfig().off_db
    for batch in pairs.batches(stop=4 * pairs.batches_per_epoch):
        target = batch.target.double() / 32768 * batch.target_gain[:, None]
        sides = torch.stack([target, batch.context.double()])
        frames = sides.unfold(-1, 800, 800).square().mean(-1)
        level_db = 10 * frames.clamp_min(1e-20).log10()  # (side, pair, frame)
        sounding_s = 0.05 * (level_db > quiet).sum(-1)
        # Up to two frames lie across an edge; tones have no gaps.
        is_sounding = sounding_s >= 0.3 - 0.1 - 1e-9
        if rule == "peak":
            is_sounding |= sides.abs().amax(-1) > config.min_peak
        assert is_sounding.all()


def test_the_peak_rule_takes_loud_stems_where_the_segment_has_two(flac_corpus):
    config = PairConfig(chunk_s=2.0, rule="peak", min_peak=0.1, min_active_s=0.1)
    batches = take(open_pairs(flac_corpus, config=config), 12)
    peaks = torch.cat(
        [(x.target.double() / 32768 * x.target_gain[:, None]).abs().amax(-1) for x in batches]
    )
    assert (peaks > 0.1).all()  # tones of 0.2: what sounds at all is loud


def test_bytes_are_counted_and_only_of_the_chosen_stems(flac_corpus, pcm16_corpus):
    counts, chunk = {}, 2 * 2 * 16000
    for corpus in (flac_corpus, pcm16_corpus):
        for workers in (0, 2):
            pairs = open_pairs(corpus, workers=workers)
            for _ in pairs.batches(stop=10):
                pass
            counts[corpus.config.payload, workers] = pairs.counts.bytes_read
            assert pairs.counts.pairs == 40
    stems, rest = divmod(counts["pcm16", 0] - 40 * 2 * 8, chunk)  # without conditions
    assert (80 <= stems < 40 * 4, rest) == (True, 0)
    assert counts["flac", 0] < stems * (chunk + 2 * MEMBER_BLOCK)
    assert counts["flac", 0] == counts["flac", 2]
    assert counts["pcm16", 0] == counts["pcm16", 2]


@pytest.mark.parametrize("workers", [0, 2])
def test_kept_decoded_audio_changes_no_batch_and_is_read_once(flac_corpus, workers):
    n = open_pairs(flac_corpus).batches_per_epoch
    pairs = open_pairs(flac_corpus, workers=workers, decoded_gb=1.0)
    read = []
    expected = open_pairs(flac_corpus).batches(stop=40 * n)
    for batch, right in zip(pairs.batches(stop=40 * n), expected, strict=True):
        assert torch.equal(batch.target, right.target)
        assert torch.equal(batch.context, right.context)
        read.append(batch.bytes_read)
    conditions = 4 * 2 * 8
    assert read[0] > 4 * 2 * 16000
    assert read[-max(1, workers) * n :] == [conditions] * max(1, workers) * n


def test_decoded_audio_that_does_not_fit_is_not_kept(flac_corpus):
    found = [read_index(path) for path in flac_corpus.folder.glob("*.index.json")]
    segments = [segment for index in found for segment in index.segments]
    decoded = sum(2 * x.samples * len(x.stems) for x in segments)
    assert all(len(segment.stems) > 1 for segment in segments)

    def read_often(decoded_gb, workers):
        pairs = open_pairs(flac_corpus, decoded_gb=decoded_gb, workers=workers)
        return sum(batch.bytes_read for batch in pairs.batches(stop=20 * pairs.batches_per_epoch))

    everything = read_often(0.0, 0)
    assert read_often(decoded / 1e9, 0) < everything / 2
    assert read_often((decoded - 1) / 1e9, 0) == everything
    assert read_often(decoded / 1e9, 2) == everything  # each worker would keep its own


def made_segment(i):
    stem = IndexedStem(
        stem_id=f"t/{i}",
        content_hash="ab",
        labels=("bass", "bass guitar"),
        label_rows=(0, 1),
        four_class=1,
        gain=1.5,
        intervals=((0.0, 1.5), (2.0, float(i))),
        offset=512,
        size=i,
    )
    return IndexedSegment(
        key=f"k{i}",
        corpus="c",
        track_id="t",
        start_s=0.0,
        samples=100,
        texts=("bass", "bass guitar"),
        labels_offset=7,
        stems=(stem,) * (i % 3),
    )


def test_a_flac_chunk_is_read_in_part(flac_corpus):
    """Of a minute of sound two seconds, and a few blocks to find them; never a block twice."""
    rng = np.random.default_rng(0)
    waveform = (0.1 * rng.standard_normal(60 * 16000)).astype(np.float32)
    waveform[20 * 16000 : 50 * 16000] *= (
        0.001  # a bit rate that varies makes the place hard to find
    )
    file = io.BytesIO()
    soundfile.write(file, waveform, 16000, format="FLAC", subtype="PCM_16")
    data = file.getvalue()
    right = soundfile.read(io.BytesIO(data), dtype="int16")[0]
    shard = Shard(name="x.tar", sha256="0" * 64, bytes=len(data) + 512, payload="flac")
    folder = flac_corpus.folder.parent / "part"
    folder.mkdir()
    (folder / shard.name).write_bytes(bytes(512) + data)
    stem = replace(made_segment(1).stems[0], offset=512, size=len(data))
    segment = replace(made_segment(1), samples=len(right))
    for start_s in (0, 19, 35.5, 49, 58):
        members = ShardMembers([(LocalFolder(folder), shard)])
        chunk, start = np.empty(32000, np.int16), round(start_s * 16000)
        members.read_chunk(0, segment, stem, start, chunk)
        assert np.array_equal(chunk, right[start : start + 32000])
        assert members.bytes_read < 64000 + 14 * MEMBER_BLOCK < len(data) / 3


def test_packed_segments_are_those_put_in():
    made = made_segment
    packed = PackedSegments()
    for i in range(50):
        packed.append(made(i))
    assert len(packed) == 50
    assert [packed[i] for i in (0, 49, 17)] == [made(0), made(49), made(17)]
    assert active_seconds(packed[4].stems[0].intervals, 0.0, 3.0) == 2.5


@pytest.mark.parametrize("rule", ["intervals", "peak"])
def test_by_track_an_epoch_takes_one_chunk_of_each_anywhere_in_it(pcm16_corpus, rule):
    config = PairConfig(chunk_s=2.0, min_active_s=0.3, rule=rule, is_by_track=True)
    pairs = open_pairs(pcm16_corpus, config=config)
    n = pairs.batches_per_epoch
    assert n == len(pairs.tracks) // 4
    starts, across = [], 0
    for batch in pairs.batches(stop=20 * n):
        assert len(set(batch.track.tolist())) == 4
        for row, track in enumerate(batch.track.tolist()):
            name = pairs.tracks[track][1]
            (listed,) = (x for x in pcm16_corpus.listed if x.track_id == name)
            chunk = batch.target[row].numpy() / 32768 * float(batch.target_gain[row])
            start = max(_place(pcm16_corpus.source(stem.stem_id), chunk) for stem in listed.stems)
            assert start >= 0, "a chunk is cut from one stem, across what is stored"
            if name.startswith("song"):
                starts.append(start / 16000)
                across += start // 96_000 != (start + 32_000 - 1) // 96_000  # segments of 6 s
    assert across > 0.2 * len(starts)
    assert min(starts) < 1 < 11 < max(starts)


def _place(source: np.ndarray, chunk: np.ndarray) -> int:
    """Where a chunk was cut from a source; -1: it was not."""
    loudest = int(np.abs(chunk[:-64]).argmax())
    probe = chunk[loudest : loudest + 64]
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(source, (0, 64_000)), 64)
    near = np.flatnonzero(np.abs(windows[:, 0] - probe[0]) < 2e-4)
    found = near[(np.abs(windows[near] - probe).max(axis=1) < 2e-4)] - loudest
    for start in found.tolist():
        cut = np.pad(source, (0, 64_000))[max(0, start) : start + len(chunk)]
        if start >= 0 and np.abs(cut - chunk).max() < 2e-4:
            return start
    return -1
