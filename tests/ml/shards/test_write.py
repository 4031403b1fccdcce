import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ml.audio.files import AudioError
from ml.corpora.label_embeddings import build_label_embeddings
from ml.shards.build import build_shards
from ml.shards.index import index_path, read_index, read_shards_manifest
from ml.shards.pairs import PairConfig
from ml.shards.reader import ShardPairs


def relabel(corpus, fingerprint="f" * 64):
    """Another label encoder, and the shards built with it."""
    corpus.encoder = replace(corpus.encoder, fingerprint=fingerprint)
    build_label_embeddings(corpus.name, corpus.layout, corpus.encoder)
    return build_shards(corpus.name, corpus.layout, corpus.config)


def names(corpus):
    return [shard["name"] for shard in read_shards_manifest(corpus.folder)["shards"]]


def members(corpus, name):
    """Bytes of every audio member, by sample and stem."""
    tar = (corpus.folder / name).read_bytes()
    return {
        (segment.key, stem.stem_id): tar[stem.offset :][: stem.size]
        for segment in read_index(index_path(corpus.folder, name)).segments
        for stem in segment.stems
    }


@pytest.fixture
def corpus(flac_corpus, tmp_path):
    """A copy of the shards whose audio is gone."""
    made = flac_corpus.in_home(tmp_path / "home")
    made.listed = list(flac_corpus.listed)
    shutil.copytree(flac_corpus.layout.home, made.layout.home)
    made.encoder = replace(flac_corpus.encoder)
    return made


def without_audio(corpus):
    """The sources moved away: whatever decodes fails from now on."""
    return corpus.root.rename(Path(f"{corpus.root}-away"))


def test_another_label_encoder_copies_the_audio_and_equals_a_fresh_build(corpus, tmp_path):
    before = names(corpus)
    audio = [members(corpus, name) for name in before]
    away = without_audio(corpus)
    try:
        relabel(corpus)
    finally:
        away.rename(corpus.root)
    after = names(corpus)
    assert not set(before) & set(after)
    assert [members(corpus, name) for name in after] == audio
    assert all((corpus.folder / name).is_file() for name in before)  # a running training's set

    fresh = corpus.in_home(tmp_path / "fresh")
    fresh.build()
    assert names(fresh) == after
    for name in after:
        assert (fresh.folder / name).read_bytes() == (corpus.folder / name).read_bytes()
        one, two = (read_index(index_path(x.folder, name)) for x in (fresh, corpus))
        assert one == two


def test_changed_labels_copy_the_audio_too(make_corpus, tmp_path):
    corpus = make_corpus(tmp_path, n_tracks=2)
    corpus.build()
    before = corpus.shard_bytes()
    corpus.listed = [
        replace(track, stems=tuple(replace(stem, labels=("reeds", "oboe")) for stem in track.stems))
        for track in corpus.listed
    ]
    from ml.corpora.table import build_corpus_tracks

    build_corpus_tracks(corpus.name, corpus, corpus.layout)
    away = without_audio(corpus)
    build_label_embeddings(corpus.name, corpus.layout, corpus.encoder)
    build_shards(corpus.name, corpus.layout, corpus.config)
    away.rename(corpus.root)
    fresh = corpus.in_home(tmp_path / "fresh")
    fresh.build()
    new = {name: data for name, data in corpus.shard_bytes().items() if name not in before}
    assert new == fresh.shard_bytes()


def test_a_damaged_shard_is_not_copied_from(corpus):
    path = corpus.folder / names(corpus)[0]
    data = bytearray(path.read_bytes())
    data[5000] ^= 1
    path.write_bytes(data)
    away = without_audio(corpus)
    try:
        with pytest.raises(AudioError, match="does not exist"):
            relabel(corpus)
    finally:
        away.rename(corpus.root)
    relabel(corpus)
    assert len(names(corpus)) >= 3


def test_a_song_keeps_its_name_and_a_new_name_leaves_the_audio(tmp_path, make_corpus):
    corpus = make_corpus(tmp_path, n_tracks=1)
    listed = list(corpus.listed)

    def named(title):
        corpus.listed[:] = [replace(track, artist="A Band", title=title) for track in listed]
        corpus.build()
        return [members(corpus, name) for name in names(corpus)]

    assert named("Old") == named("New")
    pairs = ShardPairs([corpus.folder], config=PairConfig(chunk_s=2.0), batch_size=1, seed=0)
    found = {(track["artist"], track["title"]) for track in pairs.training_tracks}
    assert found == {("A Band", "New")}
