"""Shards made through an executor: the same bytes, into the home or to a URL, with one manifest."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from ml.artifacts import ArtifactError
from ml.corpora.label_embeddings import build_label_embeddings
from ml.corpora.table import build_corpus_tracks
from ml.settings import load_settings
from ml.shards import folders
from ml.shards.build import build_shards, make_shard
from ml.shards.folders import built_folder, intact_indexes
from ml.shards.inspect import check_shards
from ml.shards.reader import ShardPairs


@pytest.fixture
def threads():
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture
def there(tmp_path):
    """A place behind a URL."""
    return tmp_path / "there"


@pytest.fixture
def corpus(flac_corpus, there, tmp_path):
    """The corpus of the other tests in a home of its own, whose training reads at the URL."""
    made = flac_corpus.in_home(tmp_path / "home")
    made.layout = replace(made.layout, shards_uri=there.as_uri())
    build_corpus_tracks(made.name, made, made.layout)
    build_label_embeddings(made.name, made.layout, made.encoder)
    return made


def build(corpus, there=None, **options):
    uri = {} if there is None else {"uri": there.as_uri()}
    return build_shards(corpus.name, corpus.layout, corpus.config, **uri, **options)


def files(folder, pattern="[!.]*.*"):
    return {path.name: path.read_bytes() for path in folder.glob(pattern)}


def counted(monkeypatch):
    """The shards that are put from here on."""
    put, original = [], folders.put_file
    monkeypatch.setattr(
        folders, "put_file", lambda path, url: (put.append(path.name), original(path, url))
    )
    return put


def test_an_executor_makes_the_same_bytes(flac_corpus, corpus, threads):
    build(corpus, executor=threads)
    assert corpus.shard_bytes() == flac_corpus.shard_bytes()
    assert files(corpus.folder, "*.json") == files(flac_corpus.folder, "*.json")


def test_shards_at_a_url_are_those_of_a_home(flac_corpus, corpus, there, threads):
    artifact = build(corpus, there, executor=threads)
    at_url = files(there / "demo")
    manifest = json.loads(at_url.pop("manifest.json"))
    wanted = files(flac_corpus.folder)
    assert manifest.pop("url") == f"{there.as_uri()}/demo"
    assert manifest == json.loads(wanted.pop("manifest.json"))
    assert at_url == wanted
    assert not corpus.shard_bytes()  # the home holds none
    assert files(corpus.folder).keys() == {"manifest.json"}
    assert build(corpus, there, executor=threads).reused
    assert (
        artifact.fingerprint
        == json.loads((flac_corpus.folder / "manifest.json").read_text())["fingerprint"]
    )


def test_what_looks_at_shards_finds_those_at_a_url(flac_corpus, corpus, there):
    build(corpus, there)
    report = check_shards(built_folder(corpus.layout, "demo"))
    assert report == check_shards(flac_corpus.folder)
    assert list(intact_indexes(built_folder(corpus.layout, "demo"))) == list(
        intact_indexes(built_folder(flac_corpus.layout, "demo"))
    )
    options: dict[str, Any] = {"batch_size": 4, "seed": 0}
    pairs = ShardPairs([built_folder(corpus.layout, "demo")], **options)
    assert pairs.fingerprints == ShardPairs([flac_corpus.folder], **options).fingerprints
    tar, other = sorted((there / "demo").glob("*.tar"))[:2]
    tar.write_bytes(tar.read_bytes()[::-1])
    other.unlink()
    problems = check_shards(built_folder(corpus.layout, "demo")).problems
    for path, problem in zip((tar, other), problems, strict=True):
        assert f"{there.as_uri()}/demo/{path.name} " in problem
    other.with_name(other.name.replace(".tar", ".index.json")).unlink()
    with pytest.raises(ArtifactError, match=other.stem):
        list(intact_indexes(built_folder(corpus.layout, "demo")))


@pytest.mark.parametrize("lost", ["index", "tar", "half a tar", "manifest", "home"])
def test_an_interrupted_build_goes_on_from_what_is_at_the_url(
    lost, corpus, there, threads, monkeypatch
):
    build(corpus, there, executor=threads)
    before = files(there / "demo")
    tar = min((there / "demo").glob("*.tar"))
    index = tar.with_name(tar.name.replace(".tar", ".index.json"))
    if lost == "half a tar":
        tar.write_bytes(tar.read_bytes()[:1000])
    elif lost == "home":
        shutil.rmtree(corpus.folder)
    else:
        {"index": index, "tar": tar, "manifest": there / "demo" / "manifest.json"}[lost].unlink()
    put = counted(monkeypatch)
    assert not build(corpus, there, executor=threads).reused
    assert files(there / "demo") == before
    assert put == ([tar.name] if "tar" in lost else [])  # a tar without its index is put once


def test_the_manifest_comes_when_all_shards_are_there(corpus, there, monkeypatch):
    def fail(job, *, url):
        assert not (there / "demo" / "manifest.json").exists()
        if job.task.number == 1:
            raise InterruptedError
        return original(job, url=url)

    original = make_shard
    monkeypatch.setattr("ml.shards.build.make_shard", fail)
    with pytest.raises(InterruptedError):
        build(corpus, there)
    assert not (corpus.folder / "manifest.json").exists()
    assert not (there / "demo" / "manifest.json").exists()


def test_labels_alone_change_and_the_audio_at_the_url_is_copied(
    corpus, there, tmp_path, threads, monkeypatch
):
    build(corpus, there, executor=threads)
    corpus.encoder = replace(corpus.encoder, fingerprint="1" * 64)
    build_label_embeddings(corpus.name, corpus.layout, corpus.encoder)
    wanted = corpus.in_home(tmp_path / "wanted")
    wanted.build()
    monkeypatch.setattr("ml.shards.write.track_segments", None)  # nothing is decoded
    assert not build(corpus, there, executor=threads).reused
    assert files(wanted.folder, "*.tar").items() <= files(there / "demo", "*.tar").items()


def test_without_a_cluster_a_build_goes_on_where_training_reads(corpus, there):
    build(corpus, there)
    assert build(corpus).reused
    corpus.layout = replace(corpus.layout, shards_uri=None)
    assert not build(corpus).reused  # training would read the home, which held none
    assert corpus.shard_bytes() == files(there / "demo", "*.tar")


def test_what_lies_at_a_url_is_not_pushed(corpus, there, tmp_path):
    build(corpus, there)
    with pytest.raises(ArtifactError, match=f"lie at {there.as_uri()}/demo, where their build"):
        folders.push_shards(corpus.folder, (tmp_path / "other").as_uri())


def test_settings_say_where_a_cluster_puts_shards(tmp_path, monkeypatch):
    assert load_settings(tmp_path, {"shards": {"uri": "s3://b"}}).build_uri is None
    monkeypatch.setenv("STEMS_COMPUTE__DASK_SCHEDULER", "tcp://host:8786")
    assert load_settings(tmp_path, {"shards": {"uri": "s3://b"}}).build_uri == "s3://b"
    assert load_settings(tmp_path, {"shards": {"uri": "elsewhere"}}).build_uri is None
    assert load_settings(tmp_path).build_uri is None
