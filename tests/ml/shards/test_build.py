import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from webdataset.compat import WebDataset

from ml.artifacts import ArtifactError
from ml.shards.index import index_path, read_index, read_shards_manifest


def samples(corpus):
    urls = [str(path) for path in sorted(corpus.folder.glob("[!.]*.tar"))]
    return list(WebDataset(urls, shardshuffle=False))


@pytest.fixture(params=["flac_corpus", "pcm16_corpus"])
def corpus(request):
    return request.getfixturevalue(request.param)


def test_webdataset_reads_every_segment_of_the_manifest(corpus):
    manifest = read_shards_manifest(corpus.folder)
    found = samples(corpus)
    assert len(found) == manifest["summary"]["segments"] > 12
    assert len({x["__key__"] for x in found}) == len(found)


def test_stored_audio_is_the_source_within_rounding(corpus):
    gains = set()
    for sample in samples(corpus):
        segment = json.loads(sample["segment.json"])
        start = round(segment["start_s"] * 16000)
        for stem in segment["stems"]:
            stored, rate_hz = soundfile.read(io.BytesIO(sample[stem["member"]]), dtype="int16")
            source = corpus.source(stem["stem_id"])[start : start + len(stored)]
            source = np.pad(source, (0, len(stored) - len(source)))
            assert rate_hz == 16000
            assert len(stored) == round(segment["duration_s"] * 16000)
            error = np.abs(stored / 32768 * stem["gain"] - source)
            assert error.max() <= 0.51 / 32768 * stem["gain"] + 1e-7
            gains.add(stem["gain"] > 1)
    assert gains == {True, False}  # the loud stem was scaled, the others were not


def test_label_rows_are_the_vectors_of_the_labels(corpus):
    for sample in samples(corpus):
        segment = json.loads(sample["segment.json"])
        rows = np.load(io.BytesIO(sample["labels.npy"]))
        assert rows.dtype == np.float16
        for stem in segment["stems"]:
            texts = stem["labels"] or ["music"]
            wanted = corpus.encoder.encode(texts)
            np.testing.assert_allclose(rows[stem["label_rows"]], wanted, atol=1e-3)


def test_segments_are_equal_parts_of_their_track_and_never_cross_it(flac_corpus):
    starts = {}
    for sample in samples(flac_corpus):
        segment = json.loads(sample["segment.json"])
        starts.setdefault(segment["track_id"], []).append(segment["start_s"])
        assert segment["duration_s"] <= 6.0
    assert starts["song 0.v1"] == [0.0, 5.0]  # 10 s in 6 s segments: two of 5 s
    assert starts["song 2.v1"] == [0.0, 6.0, 12.0]


def test_only_stems_and_segments_that_sound_are_stored(flac_corpus):
    by_track = {}
    for sample in samples(flac_corpus):
        segment = json.loads(sample["segment.json"])
        by_track.setdefault(segment["track_id"], []).append(segment)
        for stem in segment["stems"]:
            assert sum(end - start for start, end in stem["intervals"]) >= 0.1
    # From 6 s on there is no 2 s in which both stems of this track sound.
    assert [x["start_s"] for x in by_track["sparse"]] == [0.0]
    assert "alone" not in by_track
    summary = read_shards_manifest(flac_corpus.folder)["summary"]
    assert summary["dropped_segments"] == 4
    assert summary["dropped_hours"] == pytest.approx(24 / 3600, abs=1e-4)
    assert summary["dropped_stem_hours"] > 2 * 24 / 3600


def test_index_offsets_point_at_the_members(corpus):
    entry = read_shards_manifest(corpus.folder)["shards"][0]
    index = read_index(index_path(corpus.folder, entry["name"]))
    tar = (corpus.folder / entry["name"]).read_bytes()
    by_key = {x["__key__"]: x for x in samples(corpus)}
    for segment in index.segments:
        sample = by_key[segment.key]
        members = [x["member"] for x in json.loads(sample["segment.json"])["stems"]]
        for member, stem in zip(members, segment.stems, strict=True):
            assert tar[stem.offset : stem.offset + stem.size] == sample[member]
        rows = np.load(io.BytesIO(sample["labels.npy"]))
        assert tar[segment.labels_offset :][: rows.nbytes] == rows.tobytes()


def test_a_build_is_the_same_bytes_with_two_workers(flac_corpus, tmp_path):
    twin = flac_corpus.in_home(tmp_path)
    twin.build(workers=2)
    assert twin.shard_bytes() == flac_corpus.shard_bytes()
    assert len(twin.shard_bytes()) >= 3


def test_an_interrupted_build_goes_on_and_ends_with_the_same_bytes(flac_corpus, tmp_path):
    corpus = flac_corpus.in_home(tmp_path / "home")
    shutil.copytree(flac_corpus.layout.home, corpus.layout.home)
    before = corpus.shard_bytes()
    names = sorted(before)
    (corpus.folder / "manifest.json").unlink()
    (corpus.folder / names[1]).unlink()
    (corpus.folder / ".train.stale.tmp").write_bytes(b"half")
    times = {name: (corpus.folder / name).stat().st_mtime_ns for name in names if name != names[1]}
    built = corpus.build()
    assert not built.reused
    assert corpus.shard_bytes() == before
    assert not list(corpus.folder.glob(".*.tmp"))
    for name, time_ns in times.items():
        assert (corpus.folder / name).stat().st_mtime_ns == time_ns  # taken over, not redone


def test_unchanged_input_is_reused_and_a_lost_shard_is_made_again(make_corpus, tmp_path):
    corpus = make_corpus(tmp_path, n_tracks=2)
    first = corpus.build()
    again = corpus.build()
    assert again.reused
    assert again.fingerprint == first.fingerprint
    before = corpus.shard_bytes()
    (corpus.folder / next(iter(before))).unlink()
    assert not corpus.build().reused
    assert corpus.shard_bytes() == before
    assert not corpus.build(fresh=True).reused
    assert corpus.shard_bytes() == before


def test_changes_touch_only_the_shards_they_concern(make_corpus, make_tone, tmp_path):
    corpus = make_corpus(tmp_path)
    corpus.build()

    def current():
        shards = read_shards_manifest(corpus.folder)["shards"]
        return {shard["number"]: shard["name"] for shard in shards}

    first = current()
    touched = next(
        shard["number"]
        for shard in read_shards_manifest(corpus.folder)["shards"]
        if "song 3.v1" in shard["tracks"]
    )
    path = corpus.root / "song 3.v1" / "bass.wav"
    soundfile.write(path, make_tone(77, 10.0, [(0, 10)]), 16000, subtype="FLOAT")
    corpus.build()
    second = current()
    assert {number for number in first if first[number] != second[number]} == {touched}
    assert (corpus.folder / first[touched]).is_file()  # a running training may be reading it

    new = {name: ((name,), make_tone(i, 9.0, [(0, 9)])) for i, name in enumerate(("oboe", "harp"))}
    corpus.add("new song", new)
    corpus.build()
    third = current()
    assert third.items() > second.items()
    assert len(third) == len(second) + 1

    corpus.listed = [track for track in corpus.listed if track.track_id != "new song"]
    corpus.build()
    assert current() == second


def test_no_track_is_in_two_splits_and_published_splits_hold(make_corpus, tmp_path):
    corpus = make_corpus(tmp_path, valid_share=0.3, test_share=0.3)
    published = {"song 0.v1": "test", "song 1.v1": "train"}
    corpus.listed = [replace(track, split=published.get(track.track_id)) for track in corpus.listed]
    corpus.build()
    shards = read_shards_manifest(corpus.folder)["shards"]
    split_of = [(track, shard["split"]) for shard in shards for track in shard["tracks"]]
    assert len(split_of) == len(dict(split_of)) == 7
    assert published.items() <= dict(split_of).items()
    assert len(set(dict(split_of).values())) > 1
    # A split that is published later moves the track, and only its shards change.
    moved = next(track for track, split in split_of if split != "valid" and "song" in track)
    before = {shard["name"]: shard["tracks"] for shard in shards}
    corpus.listed = [
        replace(track, split="valid") if track.track_id == moved else track
        for track in corpus.listed
    ]
    corpus.build()
    shards = read_shards_manifest(corpus.folder)["shards"]
    now = [(track, shard["split"]) for shard in shards for track in shard["tracks"]]
    assert dict(now) == dict(split_of) | {moved: "valid"}
    assert len(now) == 7
    gone = before.keys() - {shard["name"] for shard in shards}
    assert [moved in before[name] for name in gone] == [True]


def test_a_stem_beyond_full_scale_keeps_its_shape(make_corpus, make_tone, tmp_path):
    corpus = make_corpus(tmp_path, n_tracks=0)
    loud = (40.0 * make_tone(3, 6.0, [(0, 6)])).astype(np.float32)  # peaks near 10
    corpus.add("loud", {"a": ((), loud), "b": ((), make_tone(4, 6.0, [(0, 6)]))})
    corpus.build()
    entries = read_shards_manifest(corpus.folder)["shards"]
    (segment,) = (
        segment
        for entry in entries
        for segment in read_index(index_path(corpus.folder, entry["name"])).segments
        if segment.track_id == "loud"
    )
    gain = {stem.stem_id: stem.gain for stem in segment.stems}
    assert gain["loud/a"] == pytest.approx(np.abs(loud).max() * 32768 / 32767)
    assert gain["loud/b"] == 1.0
    (sample,) = (x for x in samples(corpus) if x["__key__"] == segment.key)
    stored = soundfile.read(io.BytesIO(sample["000.flac"]), dtype="int16")[0]
    assert np.abs(stored.astype(int)).max() == 32767  # the peak itself, and nothing beyond it
    assert np.sum(np.abs(stored.astype(int)) == 32767) <= 2  # clipping would leave plateaus
    np.testing.assert_allclose(stored / 32768 * gain["loud/a"], loud, atol=gain["loud/a"] / 32768)


def test_a_replaced_manifest_is_kept_for_the_runs_that_know_it(make_corpus, tmp_path):
    corpus = make_corpus(tmp_path, n_tracks=2)
    corpus.build()
    first = read_shards_manifest(corpus.folder)
    corpus.listed.pop(0)
    corpus.build()
    (kept,) = (corpus.folder / "replaced").iterdir()
    assert json.loads(kept.read_text()) == first
    assert all((corpus.folder / shard["name"]).is_file() for shard in first["shards"])


def test_a_corpus_without_pairs_is_an_error(make_corpus, make_tone, tmp_path):
    corpus = make_corpus(tmp_path, n_tracks=0)
    corpus.listed.clear()
    corpus.add("solo", {"only": (("flute",), make_tone(1, 4.0, [(0, 4)]))})
    with pytest.raises(ArtifactError, match="gives no training pair"):
        corpus.build()
    assert not (corpus.folder / "manifest.json").exists()


def test_missing_input_says_what_makes_it(make_corpus, tmp_path):
    from ml.shards.build import build_shards

    corpus = make_corpus(tmp_path, n_tracks=1)
    with pytest.raises(ArtifactError, match="stems corpus build demo"):
        build_shards("demo", corpus.layout, corpus.config)
