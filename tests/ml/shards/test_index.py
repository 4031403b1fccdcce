import json
from dataclasses import replace

import pytest

from ml.artifacts import ArtifactError, fingerprint
from ml.shards.index import (
    index_path,
    read_index,
    read_index_head,
    read_shards_manifest,
    split_fingerprint,
    write_index,
)


@pytest.fixture
def index(flac_corpus):
    name = read_shards_manifest(flac_corpus.folder)["shards"][0]["name"]
    return read_index(index_path(flac_corpus.folder, name))


def test_an_index_comes_back_as_it_was(index, tmp_path):
    write_index(tmp_path, index)
    path = index_path(tmp_path, index.name)
    assert read_index(path) == index
    assert read_index_head(path) == replace(index, segments=())


def test_the_head_is_read_from_any_order_of_keys_and_with_awkward_ids(index, tmp_path):
    awkward = replace(index, assigned=('a,"segments":[', "b"))
    write_index(tmp_path, awkward)
    path = index_path(tmp_path, index.name)
    assert read_index_head(path) == replace(awkward, segments=())
    content = json.loads(path.read_text())
    del content["checksum"]  # as it once was
    path.write_text(json.dumps({key: content[key] for key in sorted(content)}))
    assert read_index_head(path) == replace(awkward, segments=())


def test_an_index_without_the_fingerprint_of_its_audio_is_read(index, tmp_path):
    write_index(tmp_path, index)
    path = index_path(tmp_path, index.name)
    content = json.loads(path.read_text())
    del content["audio"], content["checksum"]
    path.write_text(json.dumps(content))
    assert read_index(path) == replace(index, audio="")


def test_a_damaged_or_missing_index_is_an_error(index, tmp_path):
    path = index_path(tmp_path, index.name)
    for text in (None, "", "[]", '{"format_version":1}', '{"format_version":99,"segments":[]}'):
        if text is not None:
            path.write_text(text)
        with pytest.raises(ArtifactError):
            read_index_head(path)


def test_another_digit_is_an_error(index, tmp_path):
    """It would be another place in the tar."""
    write_index(tmp_path, index)
    path = index_path(tmp_path, index.name)
    text = path.read_text()
    place = f'"offset":{index.segments[0].stems[0].offset}'
    path.write_text(text.replace(place, place[:-1] + str((int(place[-1]) + 1) % 10), 1))
    with pytest.raises(ArtifactError, match=r"behind its checksum, expected .*make the shards"):
        read_index(path)


def test_a_split_is_known_by_its_entries_alone():
    shards = [{"split": "train", "sha256": "1"}, {"split": "valid", "sha256": "2"}]
    assert split_fingerprint(shards, "train") == fingerprint(shards[:1])
    assert split_fingerprint(shards, "train") != split_fingerprint(shards, "valid")
