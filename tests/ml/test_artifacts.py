"""Artifacts: nothing half-written, versions."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from ml import artifacts
from ml.artifacts import (
    ArtifactError,
    exchange,
    find_current,
    fingerprint,
    finish,
    read_manifest,
    write_aside,
    write_folder_aside,
    write_json,
)
from ml.kinds import ArtifactKind

KIND = ArtifactKind(name="thing", format_version=2, made_by="stems make {0}")


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), write_aside(path) as aside:
        aside.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "model"
    with pytest.raises(RuntimeError), write_folder_aside(folder) as aside:
        (aside / "weights").write_text("half")
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    for content in ("one", "two"):
        with write_folder_aside(folder) as aside:
            (aside / "weights").write_text(content)
        assert (folder / "weights").read_text() == content
    assert list(tmp_path.iterdir()) == [folder]


def test_no_reader_finds_a_replaced_folder_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(artifacts, "sync", lambda _: None)  # the disk's time is none of this
    folder, other = tmp_path / "model", tmp_path / "other"
    for path in (folder, other):
        path.mkdir()
    if not exchange(folder, other):
        pytest.skip("this file system cannot exchange two names")
    missing, done = [], threading.Event()

    def look() -> None:
        while not done.is_set():
            missing.extend([1] * (not folder.exists()))

    reader = threading.Thread(target=look)
    reader.start()
    for _ in range(200):
        with write_folder_aside(folder):
            pass
    done.set()
    reader.join()
    assert not missing


def test_where_names_cannot_be_exchanged_a_folder_is_replaced_too(tmp_path, monkeypatch):
    monkeypatch.setattr(artifacts, "exchange", lambda *_: False)
    test_a_folder_appears_whole_or_not_at_all(tmp_path)


def test_the_fingerprint_ignores_order_and_sees_values():
    assert fingerprint({"a": 1, "b": Path("x")}) == fingerprint({"b": "x", "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert fingerprint({"a": (1, 2)}) == fingerprint({"a": [1, 2]})


def test_an_artifact_is_current_for_its_identity_and_format_only(tmp_path):
    made = finish(tmp_path, {"seed": 1}, KIND, summary={"n": 3})
    found = find_current(tmp_path, {"seed": 1}, KIND)
    assert found is not None
    assert (found.reused, found.fingerprint, found.summary) == (True, made.fingerprint, {"n": 3})
    assert find_current(tmp_path, {"seed": 2}, KIND) is None
    assert find_current(tmp_path, {"seed": 1}, replace(KIND, format_version=3)) is None
    assert find_current(tmp_path / "none", {}, KIND) is None


@pytest.mark.parametrize("other", [1, 9])
def test_another_format_is_refused_with_what_to_do(tmp_path, other):
    folder = tmp_path / "demo"
    finish(folder, {}, replace(KIND, format_version=other), summary={})
    with pytest.raises(ArtifactError, match=rf"format version {other}.*reads 2.*stems make demo"):
        read_manifest(folder, KIND)


def test_a_damaged_manifest_is_named(tmp_path):
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ArtifactError, match=f"{tmp_path / 'manifest.json'} is not JSON"):
        read_manifest(tmp_path, KIND)


def test_no_nan_gets_into_json(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert not list(tmp_path.iterdir())
