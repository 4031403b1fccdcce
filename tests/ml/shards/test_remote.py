"""Shards at ``s3://`` against a moto server on this machine, and at ``file://`` and ``memory://``."""

import argparse
import logging
import os
import shutil
import subprocess
import sys
from itertools import islice

import pytest
import torch

from ml import object_store
from ml.artifacts import ArtifactError, DataLayout
from ml.object_store import RemoteError
from ml.shards import folders
from ml.shards.cache import CacheRoomError
from ml.shards.folders import push_shards, training_folder
from ml.shards.index import DamagedShardError
from ml.shards.pairs import PairConfig
from ml.shards.reader import ShardPairs

CONFIG = PairConfig(chunk_s=2.0, min_active_s=0.3)
BUCKET = "s3://stems/training"


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(object_store, "WAITS_S", (0.01, 0.01))


def open_remote(uri, home, *, cache_gb=1.0, config=CONFIG, **options):
    layout = DataLayout(home=home, shards_uri=uri, shard_cache_gb=cache_gb)
    folder = training_folder(layout, "demo")
    return ShardPairs([folder], config=config, batch_size=4, seed=0, **options)


def take(pairs, n, start=0):
    return list(islice(pairs.batches(start), n))


def assert_same(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        assert one.keys == other.keys
        assert torch.equal(one.target, other.target)
        assert torch.equal(one.context, other.context)
        assert torch.equal(one.condition, other.condition)


def sizes(folder):
    return {path.name: path.stat().st_size for path in sorted(folder.glob("[!.]*.tar"))}


@pytest.mark.usefixtures("s3")
@pytest.mark.parametrize("workers", [0, 2])
def test_shards_at_s3_give_the_same_batches(flac_corpus, tmp_path, workers):
    pushed = push_shards(flac_corpus.folder, BUCKET)
    assert pushed.sent == pushed.shards >= 3
    pairs = open_remote(BUCKET, tmp_path, workers=workers)
    local = ShardPairs([flac_corpus.folder], config=CONFIG, batch_size=4, seed=0)
    assert pairs.fingerprints == local.fingerprints
    assert_same(take(pairs, 5, 3), take(local, 5, 3))
    cached = sizes(tmp_path / "cache" / "shards")
    assert sorted(cached.values()) == sorted(sizes(flac_corpus.folder).values())


def test_a_second_run_fetches_no_tar(flac_corpus, s3, tmp_path):
    push_shards(flac_corpus.folder, BUCKET)
    first = take(open_remote(BUCKET, tmp_path), 4)
    for name in sizes(flac_corpus.folder):
        s3.delete_object(Bucket="stems", Key=f"training/demo/{name}")
    assert_same(take(open_remote(BUCKET, tmp_path), 4), first)


def test_any_scheme_works(flac_corpus, tmp_path):
    uri = (tmp_path / "elsewhere").as_uri()
    assert push_shards(flac_corpus.folder, uri).sent >= 3
    local = ShardPairs([flac_corpus.folder], config=CONFIG, batch_size=4, seed=0)
    assert_same(take(open_remote(uri, tmp_path), 3), take(local, 3))


def test_a_path_elsewhere_is_read_in_place(flac_corpus, tmp_path):
    pairs = open_remote(str(flac_corpus.folder.parent), tmp_path)
    assert len(take(pairs, 1)) == 1
    assert not (tmp_path / "cache").exists()


@pytest.mark.usefixtures("s3")
def test_the_cache_stays_within_its_bound(flac_corpus, tmp_path, caplog):
    push_shards(flac_corpus.folder, BUCKET)
    largest = max(sizes(flac_corpus.folder).values())
    pairs = open_remote(BUCKET, tmp_path, cache_gb=1.5 * largest / 1e9)
    assert "shards.cache_gb" in caplog.text
    local = ShardPairs([flac_corpus.folder], config=CONFIG, batch_size=4, seed=0)
    for batch, wanted in zip(take(pairs, 6), take(local, 6), strict=True):
        assert_same([batch], [wanted])
        assert sum(sizes(tmp_path / "cache" / "shards").values()) <= 1.5 * largest


@pytest.mark.usefixtures("s3")
def test_a_cache_without_room_for_one_shard_says_so(flac_corpus, tmp_path):
    push_shards(flac_corpus.folder, BUCKET)
    with pytest.raises(CacheRoomError, match=r"does not fit the cache .*raise shards\.cache_gb"):
        take(open_remote(BUCKET, tmp_path, cache_gb=1e-6), 1)


def test_push_sends_what_is_missing_and_the_manifest_last(flac_corpus, s3, monkeypatch):
    push_shards(flac_corpus.folder, BUCKET)
    assert push_shards(flac_corpus.folder, BUCKET).sent == 0
    lost = next(iter(sizes(flac_corpus.folder)))
    s3.delete_object(Bucket="stems", Key=f"training/demo/{lost}")
    s3.put_object(Bucket="stems", Key="training/demo/manifest.json", Body=b"{}")
    written = []
    original = object_store._write
    monkeypatch.setattr(
        object_store, "_write", lambda url, work: (written.append(url), original(url, work))
    )
    pushed = push_shards(flac_corpus.folder, BUCKET)
    assert pushed.sent == 1
    assert pushed.sent_bytes == sizes(flac_corpus.folder)[lost]
    assert [url.rpartition("/")[2] for url in written] == [lost, "manifest.json"]


def test_a_damaged_shard_is_not_pushed(flac_corpus, s3, tmp_path):
    folder = shutil.copytree(flac_corpus.folder, tmp_path / "demo")
    tar = next(folder.glob("*.tar"))
    tar.write_bytes(tar.read_bytes()[:-512])
    with pytest.raises(ArtifactError, match="not what the manifest describes"):
        push_shards(folder, BUCKET)
    listed = s3.list_objects_v2(Bucket="stems").get("Contents", [])
    assert not [x["Key"] for x in listed if x["Key"].endswith("manifest.json")]


def overwrite(s3, name, body):
    s3.put_object(Bucket="stems", Key=f"training/demo/{name}", Body=body)


def test_a_tar_that_is_not_what_its_index_says_is_damaged(flac_corpus, s3, tmp_path):
    push_shards(flac_corpus.folder, BUCKET)
    for name in sizes(flac_corpus.folder):
        body = bytearray((flac_corpus.folder / name).read_bytes())
        body[5000] ^= 1
        overwrite(s3, name, bytes(body))
    with pytest.raises(DamagedShardError, match=r"shard s3://stems/training/demo/.*SHA-256"):
        take(open_remote(BUCKET, tmp_path), 1)
    assert not list((tmp_path / "cache" / "shards").glob("*.t*"))  # nothing kept, nothing left over


def test_a_tar_that_is_gone_can_be_skipped(flac_corpus, s3, tmp_path):
    push_shards(flac_corpus.folder, BUCKET)
    gone = next(iter(sizes(flac_corpus.folder)))
    s3.delete_object(Bucket="stems", Key=f"training/demo/{gone}")
    with pytest.raises(DamagedShardError, match=f"{gone} is damaged .*does not exist"):
        take(open_remote(BUCKET, tmp_path), 20)
    skipping = PairConfig(chunk_s=2.0, min_active_s=0.3, damaged="skip")
    pairs = open_remote(BUCKET, tmp_path, config=skipping)
    take(pairs, 6)
    assert set(pairs.counts.skipped) == {f"{BUCKET}/demo/{gone}"}


@pytest.mark.usefixtures("s3")
def test_a_url_without_shards_says_how_to_put_them_there(tmp_path):
    with pytest.raises(ArtifactError, match=f"stems shards push demo {BUCKET}"):
        open_remote(BUCKET, tmp_path)


@pytest.mark.usefixtures("s3")
def test_a_bucket_that_does_not_exist(flac_corpus, tmp_path):
    with pytest.raises(ArtifactError, match=r"s3://nowhere/demo/.* expected a bucket that exists"):
        push_shards(flac_corpus.folder, "s3://nowhere")
    with pytest.raises(ArtifactError, match=r"s3://nowhere/demo/manifest\.json does not exist"):
        open_remote("s3://nowhere", tmp_path)


@pytest.mark.usefixtures("s3")
def test_a_dead_network_is_tried_again_and_then_named(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(RemoteError, match=r"manifest\.json cannot be reached, tried 3 times"):
        open_remote(BUCKET, tmp_path)
    s3fs.S3FileSystem.clear_instance_cache()
    assert caplog.text.count("trying again") == 2


def test_a_failure_that_passes_is_put_up_with(flac_corpus, tmp_path, monkeypatch, caplog):
    """The second range of every tar fails once."""
    push_shards(flac_corpus.folder, (tmp_path / "there").as_uri())
    monkeypatch.setattr(object_store, "WAITS_S", (0.0,))
    monkeypatch.setattr(folders, "BLOCK", 100_000)
    from fsspec.implementations.local import LocalFileSystem

    original, failed = LocalFileSystem.cat_file, set()

    def cat_file(self, path, start=None, end=None, **options):
        if start == 100_000 and path not in failed:
            failed.add(path)
            raise ConnectionResetError("gone")
        return original(self, path, start=start, end=end, **options)

    monkeypatch.setattr(LocalFileSystem, "cat_file", cat_file)
    with caplog.at_level(logging.WARNING):
        take(open_remote((tmp_path / "there").as_uri(), tmp_path), 3)
    assert failed
    assert caplog.text.count("trying again") == len(failed)


def test_an_unknown_scheme_is_named(tmp_path):
    with pytest.raises(RemoteError, match=r"gopher://x/demo/manifest.json cannot be opened"):
        open_remote("gopher://x", tmp_path)


def test_credentials_stay_out_of_what_is_written(flac_corpus, s3, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    push_shards(flac_corpus.folder, BUCKET)
    take(open_remote(BUCKET, tmp_path), 1)
    for path in (tmp_path / "cache").rglob("*"):
        assert path.is_dir() or b"very-secret" not in path.read_bytes()
    for item in s3.list_objects_v2(Bucket="stems")["Contents"]:
        body = s3.get_object(Bucket="stems", Key=item["Key"])["Body"].read()
        assert b"very-secret" not in body


def test_local_reading_does_without_fsspec():
    code = (
        "import sys; import ml.shards.reader, ml.shards.folders, ml.shards.cache; "
        "print(sorted({'s3fs', 'boto3', 'aiobotocore'} & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert found.stdout.strip() == "[]"


def test_training_reads_where_the_settings_say(home, small, tmp_path):
    from ml.settings import load_settings
    from ml.training.runs import train_preset

    settings = load_settings(home)
    uri = (tmp_path / "elsewhere").as_uri()
    push_shards(settings.layout.shards("demo"), uri)
    here = train_preset("contrastive", layout=settings.layout, corpora=["demo"], overrides=small)
    shutil.rmtree(settings.layout.shards("demo"))
    shutil.rmtree(here.path.parent)
    there = load_settings(home, {"shards": {"uri": uri, "cache_gb": 2}}).layout
    again = train_preset("contrastive", layout=there, corpora=["demo"], overrides=small)
    assert not again.reused
    assert again.fingerprint == here.fingerprint  # the same weights
    assert sizes(there.shard_cache)


def test_push_from_the_command_line(flac_corpus, tmp_path, capsys):
    from ml.cli.shards import add_parser, run_push
    from ml.settings import load_settings

    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    uri = (tmp_path / "there").as_uri()
    settings = load_settings(flac_corpus.layout.home)
    with pytest.raises(ValueError, match=r"shards\.uri is not set"):
        run_push(parser.parse_args(["shards", "push", "demo"]), settings)
    assert run_push(parser.parse_args(["shards", "push", "demo", uri]), settings) == 0
    assert f"{uri}/demo: " in capsys.readouterr().out
    assert (tmp_path / "there" / "demo" / "manifest.json").is_file()
