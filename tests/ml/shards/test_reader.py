import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import islice, pairwise

import numpy as np
import pytest
import torch

from ml.artifacts import ArtifactError
from ml.corpora.table import read_corpus_tracks
from ml.labels.taxonomy import FOUR_CLASSES
from ml.shards.batches import label_id, label_ids, resampled
from ml.shards.pairs import LABEL_LEVELS, PairConfig, speed
from ml.shards.reader import ShardPairs

CONFIG = PairConfig(chunk_s=2.0, min_active_s=0.3)
SAMPLES = 32000


def open_pairs(corpus, *, batch_size=4, seed=0, config=CONFIG, **options):
    return ShardPairs([corpus.folder], config=config, batch_size=batch_size, seed=seed, **options)


def take(pairs, n, start=0):
    return list(islice(pairs.batches(start), n))


def assert_same(one, other):
    assert one.keys == other.keys
    assert one.labels == other.labels
    for name in ("context", "target", "target_gain", "condition", "four_class"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert torch.equal(one.track, other.track)
    assert torch.equal(one.asked, other.asked)
    assert torch.equal(one.label_ids, other.label_ids)


@pytest.fixture(params=["flac_corpus", "pcm16_corpus"])
def corpus(request):
    return request.getfixturevalue(request.param)


def test_target_and_context_sound_and_differ(corpus):
    for batch in take(open_pairs(corpus), 30):
        assert (batch.context.dtype, batch.target.dtype) == (torch.float32, torch.int16)
        assert batch.target.shape == batch.context.shape == (4, SAMPLES)
        target = batch.target.float() / 32768 * batch.target_gain[:, None]
        # Stems are tones of about -17 dB where they sound: 0.3 s of 2 s are over -30 dB.
        for side in (target, batch.context):
            assert (side.pow(2).mean(-1) > 1e-3).all()
        assert ((target - batch.context).abs().amax(-1) > 1e-3).all()
        assert len(set(batch.track.tolist())) == 4


def test_both_payloads_give_the_same_pairs(flac_corpus, pcm16_corpus):
    flac, pcm16 = open_pairs(flac_corpus), open_pairs(pcm16_corpus)
    for one, other in zip(take(flac, 8), take(pcm16, 8), strict=True):
        assert_same(one, other)
    assert flac.fingerprints != pcm16.fingerprints


def test_chunks_are_cut_from_the_source(corpus):
    pairs = open_pairs(corpus)
    sources = {
        stem.stem_id: corpus.source(stem.stem_id) for track in corpus.listed for stem in track.stems
    }
    for batch in take(pairs, 4):
        for row in range(4):
            track_id = pairs.tracks[int(batch.track[row])][1]
            chunk = batch.target[row].numpy() / 32768 * float(batch.target_gain[row])
            loudest = int(np.abs(chunk[:-64]).argmax())
            probe = chunk[max(0, loudest - 32) : loudest + 32]
            assert any(
                contains(source, probe, tolerance=2e-4)
                for stem_id, source in sources.items()
                if stem_id.startswith(f"{track_id}/")
            )


def contains(source, probe, tolerance):
    windows = np.lib.stride_tricks.sliding_window_view(source, len(probe))
    near = np.flatnonzero(np.abs(windows[:, 0] - probe[0]) < tolerance)
    return bool((np.abs(windows[near] - probe).max(axis=1) < tolerance).any())


def test_conditions_labels_and_classes_belong_together(corpus):
    drawn = set()
    for batch in take(open_pairs(corpus), 30):
        wanted = torch.from_numpy(corpus.encoder.encode(batch.labels))
        torch.testing.assert_close(batch.condition, wanted, atol=1e-3, rtol=0)
        drawn |= {
            (label, FOUR_CLASSES[four_class])
            for label, four_class in zip(batch.labels, batch.four_class.tolist(), strict=True)
        }
    # Both levels of the hierarchy are drawn, and "music" where there is no label.
    assert {("bass", "bass"), ("bass guitar", "bass"), ("drums", "drums")} < drawn
    assert {("piano", "other"), ("grand piano", "other"), ("music", "other")} < drawn


def test_music_takes_the_place_of_a_label_with_its_own_vector(flac_corpus):
    plain, mixed = (
        open_pairs(flac_corpus, config=replace(CONFIG, music_share=share)) for share in (0.0, 0.5)
    )
    drawn = Counter()
    for one, other in zip(take(plain, 20), take(mixed, 20), strict=True):
        assert torch.equal(one.target, other.target)
        assert torch.equal(one.context, other.context)
        wanted = torch.from_numpy(flac_corpus.encoder.encode(other.labels))
        torch.testing.assert_close(other.condition, wanted, atol=1e-3, rtol=0)
        drawn += Counter(b == "music" for a, b in zip(one.labels, other.labels, strict=True)
                         if a != "music")  # fmt: skip
    assert 0.3 < drawn[True] / drawn.total() < 0.7
    for number in (3, 7):  # a pure function of seed and place
        assert_same(*(take(mixed, 1, number)[0] for _ in range(2)))


def test_music_without_a_vector_of_it_is_refused(tmp_path, make_corpus):
    labelled = make_corpus(tmp_path, n_tracks=0)  # both of its tracks have labels throughout
    labelled.build()
    with pytest.raises(ArtifactError, match=r"music_share is 0.1.*set pairs.music_share=0"):
        open_pairs(labelled, batch_size=1, config=replace(CONFIG, music_share=0.1))


def test_label_vectors_are_those_of_all_texts(flac_corpus):
    pairs = open_pairs(flac_corpus)
    found = pairs.label_vectors()
    assert list(found) == sorted({*pairs.training_labels, "music"})
    wanted = flac_corpus.encoder.encode(list(found))
    np.testing.assert_allclose(np.stack(list(found.values())), wanted, atol=1e-3)


@pytest.mark.parametrize("workers", [0, 1])
def test_hard_negatives_are_other_stems_of_the_same_chunk(flac_corpus, workers):
    config = replace(CONFIG, hard_negatives=2)
    plain = take(open_pairs(flac_corpus), 12)
    with_negatives = open_pairs(flac_corpus, config=config, workers=workers)
    found = take(with_negatives, 12)
    count = 0
    for one, other in zip(plain, found, strict=True):
        assert_same(one, other)
        assert one.negatives is one.negative_gain is None
        assert other.negatives is not None
        assert other.negative_gain is not None
        assert other.negatives.shape == (4, 2, SAMPLES)
        for row in range(4):
            for chunk, gain in zip(other.negatives[row], other.negative_gain[row], strict=True):
                assert bool(chunk.any()) == (gain > 0)
                if gain > 0:
                    count += 1
                    assert not torch.equal(chunk, other.target[row])
                    track_id = with_negatives.tracks[int(other.track[row])][1]
                    waveform = chunk.numpy() / 32768 * float(gain)
                    assert is_of_track(flac_corpus, track_id, waveform)
    assert count > 5


def test_negatives_of_other_times_and_speeds_are_read_where_there_are_any(flac_corpus):
    config = replace(CONFIG, semitones=2, speed_negatives=4, time_negatives=1)
    (batch,) = take(open_pairs(flac_corpus, config=config), 1)
    assert batch.negatives is not None
    assert batch.negatives.shape == (4, 5, SAMPLES)
    assert batch.negative_gain is not None
    assert torch.equal(batch.negatives.any(2), batch.negative_gain > 0)
    assert (batch.negative_gain > 0).sum() > 8


def test_what_is_read_faster_sounds_higher_by_as_many_semitones():
    tone = 8_000 * np.sin(2 * np.pi * 400 * np.arange(64_000) / 16_000)
    for semitones in (-5, 0, 3, 12):
        longer = tone[: round(16_000 * speed(semitones))].round().astype(np.int16)
        spectrum = np.abs(np.fft.rfft(resampled(longer, 16_000) * np.hanning(16_000)))
        assert abs(spectrum.argmax() - 400 * 2 ** (semitones / 12)) <= 1  # bins of 1 Hz


def is_of_track(corpus, track_id, chunk):
    loudest = int(np.abs(chunk[:-64]).argmax())
    probe = chunk[max(0, loudest - 32) : loudest + 32]
    (track,) = (x for x in corpus.listed if x.track_id == track_id)
    return any(contains(corpus.source(x.stem_id), probe, tolerance=2e-4) for x in track.stems)


def test_what_was_trained_on_is_listed_by_content(flac_corpus):
    pairs = open_pairs(flac_corpus)
    table = read_corpus_tracks(flac_corpus.layout, "demo")
    for track in pairs.training_tracks:
        of_track = table.filter(table["track_id"] == track["track_id"])
        assert track["corpus"] == "demo"
        assert track["content_hash"] == sorted(of_track["content_hash"])
    assert [track["track_id"] for track in pairs.training_tracks] == [x for _, x in pairs.tracks]
    assert set(pairs.training_labels) == {
        *("bass", "bass guitar", "drums", "piano", "grand piano", "guitar", "vocals")
    }


def test_label_ids_tell_who_answers_a_drawn_label(flac_corpus):
    finest = {}
    for batch in take(open_pairs(flac_corpus), 20):
        assert (batch.label_ids == batch.asked[:, None]).any(1).all()  # a target answers its query
        for label, ids in zip(batch.labels, batch.label_ids.tolist(), strict=True):
            finest.setdefault(label, set()).add(ids[0])
    assert finest["bass"] == finest["bass guitar"] == {label_id("bass guitar")}
    assert finest["bass"] != finest["drums"]


def test_the_finest_label_fills_the_levels_that_are_not_there():
    guitar, acoustic = label_id("guitar"), label_id("acoustic guitar")
    filled = [acoustic] * (LABEL_LEVELS - 2)
    assert label_ids(["guitar", "acoustic guitar"]) == [acoustic, guitar, *filled]
    assert label_ids([]) == [label_id("music")] * LABEL_LEVELS


def test_an_epoch_visits_each_segment_once_but_for_the_left_over(corpus):
    pairs = open_pairs(corpus)
    for epoch in range(3):
        batches = take(pairs, pairs.batches_per_epoch, epoch * pairs.batches_per_epoch)
        keys = [key for batch in batches for key in batch.keys]
        assert len(keys) == len(set(keys)) == pairs.batches_per_epoch * 4
        assert pairs.n_segments - len(keys) < 4


def test_a_batch_is_a_function_of_its_number(corpus):
    pairs = open_pairs(corpus)
    all_batches = take(pairs, 9)
    for start in (1, pairs.batches_per_epoch, 7):
        assert_same(next(pairs.batches(start)), all_batches[start])
    assert_same(next(open_pairs(corpus).batches(5)), all_batches[5])
    assert next(open_pairs(corpus, seed=1).batches()).keys != all_batches[0].keys


def test_the_number_of_workers_changes_nothing(flac_corpus):
    alone = take(open_pairs(flac_corpus), 7, 2)
    state = torch.get_rng_state()
    for workers in (1, 2):
        for one, other in zip(
            alone, take(open_pairs(flac_corpus, workers=workers), 7, 2), strict=True
        ):
            assert_same(one, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_ranks_share_out_the_global_batch(flac_corpus):
    whole = take(open_pairs(flac_corpus), 4)
    parts = [take(open_pairs(flac_corpus, rank=rank, world=2), 4) for rank in range(2)]
    for i, batch in enumerate(whole):
        for rank in range(2):
            part = parts[rank][i]
            assert part.keys == batch.keys[rank::2]
            assert torch.equal(part.target, batch.target[rank::2])
            assert torch.equal(part.condition, batch.condition[rank::2])


def test_fewer_tracks_than_the_batch_is_said_and_draws_afresh(flac_corpus, caplog):
    pairs = open_pairs(flac_corpus, batch_size=16)
    assert "7 tracks for batches of 16" in caplog.text
    first, second = take(pairs, 2)
    assert len(set(first.track.tolist())) <= 7
    shared = set(first.keys) & set(second.keys)
    assert shared
    assert not all(
        torch.equal(first.target[first.keys.index(k)], second.target[second.keys.index(k)])
        for k in shared
    )


def test_a_segment_shorter_than_the_chunk_is_padded_with_silence(flac_corpus):
    config = PairConfig(chunk_s=5.5, min_active_s=0.3)
    batches = take(open_pairs(flac_corpus, config=config), 6)
    ends = torch.cat([batch.target[:, -8000:] for batch in batches])  # segments of 5 s end there
    is_short = (ends == 0).all(-1)
    assert is_short.any()
    assert not is_short.all()


def test_the_peak_rule_wants_loud_stems(flac_corpus):
    config = PairConfig(chunk_s=2.0, rule="peak", min_peak=0.8, min_active_s=0.1)
    peaks = {"loud": 0, "all": 0}
    for batch in take(open_pairs(flac_corpus, config=config), 10):
        level = (batch.target.float() / 32768 * batch.target_gain[:, None]).abs().amax(-1)
        peaks["loud"] += int((level > 0.8).sum())
        peaks["all"] += len(batch)
    # One stem a track is that loud, so the best chunk is taken, from which any stem may come.
    assert 0 < peaks["loud"] < peaks["all"]


def test_a_truncated_shard_names_itself_and_the_sample(make_corpus, tmp_path):
    corpus = make_corpus(tmp_path, n_tracks=4)
    corpus.build()
    pairs = open_pairs(corpus)
    for path in corpus.folder.glob("*.tar"):
        path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ArtifactError, match=r"shard .*\.tar is damaged at sample .* --fresh"):
        take(pairs, 1)


def test_overwritten_audio_names_shard_sample_and_stem(make_corpus, tmp_path):
    corpus = make_corpus(tmp_path, n_tracks=4)
    corpus.build()
    pairs = open_pairs(corpus)
    for path in corpus.folder.glob("*.tar"):
        path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(ArtifactError, match=r"\.tar is damaged at sample .*: stem .*/"):
        take(pairs, 1)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_missing_shard_is_named(make_corpus, tmp_path, workers):
    corpus = make_corpus(tmp_path, n_tracks=4)
    corpus.build()
    pairs = open_pairs(corpus, workers=workers)
    for path in corpus.folder.glob("*.tar"):
        path.unlink()
    with pytest.raises(ArtifactError, match=r"^shard \S+ is damaged at .* does not exist; .*$"):
        take(pairs, 1)


def test_label_encoders_must_agree(make_corpus, flac_corpus, tmp_path):
    other = make_corpus(tmp_path, name="other", n_tracks=2)
    other.encoder.fingerprint = "f" * 64
    other.build()
    with pytest.raises(ArtifactError, match=r"demo has label_encoder .*other has"):
        ShardPairs([flac_corpus.folder, other.folder], batch_size=2, seed=0)


def test_two_corpora_are_mixed(make_corpus, flac_corpus, tmp_path):
    other = make_corpus(tmp_path, name="other", n_tracks=2)
    other.build()
    pairs = ShardPairs([flac_corpus.folder, other.folder], config=CONFIG, batch_size=8, seed=0)
    assert {corpus for corpus, _ in pairs.tracks} == {"demo", "other"}
    assert len(pairs.fingerprints) == 2


def test_an_empty_split_says_which_there_are(flac_corpus):
    with pytest.raises(ArtifactError, match=r"split 'valid', only of \['train'\]"):
        open_pairs(flac_corpus, split="valid")


def test_a_folder_without_shards_says_what_makes_them(tmp_path):
    with pytest.raises(ArtifactError, match="stems shards build demo"):
        ShardPairs([tmp_path / "demo"], batch_size=2, seed=0)


def test_batch_size_must_divide_among_ranks(flac_corpus):
    with pytest.raises(ValueError, match="multiple of world"):
        open_pairs(flac_corpus, batch_size=3, world=2)


def test_a_batch_moves_as_one(flac_corpus):
    batch = next(open_pairs(flac_corpus).batches())
    moved = batch.to("meta")
    assert moved.target.device.type == moved.condition.device.type == "meta"
    assert moved.keys == batch.keys


def test_reading_needs_no_table_library():
    code = (
        "import sys; import ml.shards.reader; "
        "print(sorted({'polars', 'pyarrow', 'soxr', 'av', 'webdataset'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_chunk_starts_are_spread_over_the_segment(pcm16_corpus):
    """The same segment, ten epochs: ten different chunks."""
    pairs = open_pairs(pcm16_corpus)
    seen = {}
    for batch in take(pairs, 10 * pairs.batches_per_epoch):
        for row, key in enumerate(batch.keys):
            seen.setdefault(key, []).append(batch.target[row])
    repeats = sum(
        torch.equal(one, two) for chunks in seen.values() for one, two in pairwise(chunks)
    )
    assert repeats == 0
