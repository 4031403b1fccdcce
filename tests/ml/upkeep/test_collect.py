from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ml.artifacts import DataLayout, write_json
from ml.corpora.corpus import open_corpus
from ml.corpora.table import build_corpus_tracks
from ml.locks import lock
from ml.retrieval.champion.champion import write_champion
from ml.shards.build import build_shards
from ml.shards.folders import push_shards
from ml.shards.index import read_shards_manifest, split_fingerprint
from ml.shards.plan import ShardConfig
from ml.upkeep import collect_leftovers

MODEL, OTHER, GONE = "a" * 16, "b" * 16, "c" * 16


@pytest.fixture
def layout(shared_home: Path, tmp_path: Path) -> DataLayout:
    """A home with the shards of ``shared_home``, what they were made from, and no runs."""
    for part in ("shards", "tracks", "labels"):
        shutil.copytree(shared_home / part / "demo", tmp_path / part / "demo")
    layout = DataLayout(home=tmp_path)
    corpus = open_corpus("demo", shared_home / "corpora" / "demo")
    build_corpus_tracks("demo", corpus, layout)
    return layout


def build(layout: DataLayout, **config: object) -> list[str]:
    """Build the shards in another way; returns the names of the set."""
    build_shards("demo", layout, replace(ShardConfig(payload="pcm16"), **config))
    return current(layout)


def current(layout: DataLayout) -> list[str]:
    return [shard["name"] for shard in read_shards_manifest(layout.shards("demo"))["shards"]]


def train_fingerprint(layout: DataLayout) -> str:
    return split_fingerprint(read_shards_manifest(layout.shards("demo"))["shards"], "train")


def write_run(
    layout: DataLayout, name: str, *, shards: list[str], model: str | None = None
) -> Path:
    folder = layout.runs / name
    write_json(folder / "run.json", {"identity": {"shards": shards, "phase_1": None}})
    if model is not None:
        origin = {"model_id": model, "phase_1_model_id": None, "shards": shards}
        write_json(folder / "model" / "manifest.json", origin)
    return folder


def embed(layout: DataLayout, model_id: str) -> None:
    folder = layout.embeddings(model_id, "demo")
    folder.mkdir(parents=True)
    (folder / "gallery.parquet").write_bytes(b"x" * 100)
    with lock(folder / ".lock"):
        pass
    database = layout.lancedb / model_id / "stem_embeddings.lance"
    database.mkdir(parents=True)
    (database / "data").write_bytes(b"y" * 50)


def found(layout: DataLayout, **options: bool) -> set[str]:
    leftovers = collect_leftovers(layout, **options)
    return {Path(x.path).relative_to(layout.home).as_posix() for x in leftovers.found}


def files(layout: DataLayout) -> set[Path]:
    return {path for path in layout.home.rglob("*") if path.name != ".lock"}


def test_nothing_of_a_home_in_use_is_found(shared_home: Path) -> None:
    leftovers = collect_leftovers(DataLayout(home=shared_home), delete=True)
    assert leftovers.found == []


def test_shards_of_a_replaced_set_go_unless_a_run_names_them(layout: DataLayout) -> None:
    first, trained_on = current(layout), train_fingerprint(layout)
    second = build(layout, segment_s=4.0)
    assert not set(first) & set(second)
    run = write_run(layout, "film-tiny-0", shards=[trained_on])  # has no checkpoint yet
    assert found(layout) == set()
    shutil.rmtree(run)
    stale = found(layout)
    names = {name for shard in first for name in (shard, shard.replace(".tar", ".index.json"))}
    assert {Path(path).name for path in stale} - names == {
        path.name for path in (layout.shards("demo") / "replaced").iterdir()
    }
    before = files(layout)
    assert found(layout) == stale  # looking deletes nothing
    assert files(layout) == before
    sizes = {path: (layout.home / path).stat().st_size for path in stale}
    deleted = collect_leftovers(layout, delete=True)
    assert deleted.n_bytes == sum(sizes.values())
    assert not any((layout.home / path).exists() for path in stale)
    assert build_shards("demo", layout, replace(ShardConfig(payload="pcm16"), segment_s=4.0)).reused


def test_shards_in_a_bucket_go_only_when_asked_for(layout: DataLayout, s3: Any) -> None:
    """Not those of the set there, of a run's set, of another home's manifest or of nobody's."""
    uri, folder = "s3://stems/training", layout.shards("demo")
    remote = replace(layout, shards_uri=uri)
    trained_on, first = train_fingerprint(layout), current(layout)
    push_shards(folder, uri)
    second = build(layout, segment_s=4.0)
    push_shards(folder, uri)
    third = build(layout, segment_s=5.0)  # here alone: the manifest there lists the second
    s3.put_object(Bucket="stems", Key="training/demo/notes.txt", Body=b"mine")
    run = write_run(layout, "film-tiny-0", shards=[trained_on])
    everything = objects(s3)
    assert {name for name in everything if name.endswith(".tar")} == {*first, *second}

    assert remote_found(remote) == set()
    shutil.rmtree(run)
    assert not [x for x in collect_leftovers(remote).found if isinstance(x.path, str)]
    unused = {name for shard in first for name in (shard, shard.replace(".tar", ".index.json"))}
    assert remote_found(remote) == unused
    assert objects(s3) == everything  # looking deletes nothing
    write_json(folder / "unfinished.json", {"tasks": []})
    assert remote_found(remote, delete=True) == set()
    (folder / "unfinished.json").unlink()
    assert remote_found(remote, delete=True) == unused
    assert objects(s3) == everything - unused
    push_shards(folder, uri)
    assert {name for name in objects(s3) if name.endswith(".tar")} == {*second, *third}


def remote_found(layout: DataLayout, *, delete: bool = False) -> set[str]:
    leftovers = collect_leftovers(layout, delete=delete, has_remote=True)
    return {x.path.rpartition("/")[2] for x in leftovers.found if isinstance(x.path, str)}


def objects(s3: Any) -> set[str]:
    found = s3.list_objects_v2(Bucket="stems")["Contents"]
    return {entry["Key"].rpartition("/")[2] for entry in found}


def test_a_checkpoint_names_shards_as_a_run_does(layout: DataLayout) -> None:
    run = write_run(layout, "film-tiny-0", shards=[train_fingerprint(layout)], model=MODEL)
    (run / "run.json").unlink()
    build(layout, segment_s=4.0)
    assert found(layout, delete=True) == set()


def test_what_an_unfinished_build_made_stays_and_is_taken_over(layout: DataLayout) -> None:
    first = current(layout)
    second = build(layout, segment_s=4.0)
    folder = layout.shards("demo")
    (replaced,) = (folder / "replaced").iterdir()
    made = json.loads((folder / f"{Path(second[0]).stem}.index.json").read_text())["task"]
    replaced.rename(folder / "manifest.json")  # as if killed before the manifest
    assert {Path(x).name for x in found(layout) if x.endswith(".tar")} == set(second)
    write_json(folder / "unfinished.json", {"tasks": [made]})
    unused = {Path(x).name for x in found(layout, delete=True)}
    assert second[0] not in unused
    assert not unused & set(first)
    assert {name for name in unused if name.endswith(".tar")} == set(second[1:])


def test_whatever_is_unclear_keeps_all_shards_and_models(layout: DataLayout) -> None:
    build(layout, segment_s=4.0)
    embed(layout, GONE)
    unclear = {
        "unknown set": lambda: write_run(layout, "x", shards=["0" * 64]),
        "no words": lambda: (layout.runs / "x").mkdir(parents=True),
        "not JSON": lambda: _write(layout.runs / "x" / "run.json", "{"),
        "of another shape": lambda: write_json(layout.runs / "x" / "run.json", {"identity": 3}),
        "champion": lambda: _write(layout.lancedb / "champion.json", '{"model": 1}'),
    }
    shards = {path for path in found(layout) if path.startswith("shards/")}
    assert shards
    for name, break_ in unclear.items():
        break_()
        leftovers = collect_leftovers(layout, delete=True)
        kinds = {Path(leftover.path).parent.name for leftover in leftovers.found}
        assert not kinds & {"demo", "replaced"}, name
        assert leftovers.kept, name
        if name == "unknown set":
            embed(layout, GONE)  # models are another matter
        shutil.rmtree(layout.runs, ignore_errors=True)
        (layout.lancedb / "champion.json").unlink(missing_ok=True)
    assert {path for path in found(layout) if path.startswith("shards/")} == shards


def test_shards_without_a_manifest_stay(layout: DataLayout) -> None:
    (layout.shards("demo") / "manifest.json").unlink()
    leftovers = collect_leftovers(layout, delete=True)
    assert leftovers.found == []
    assert "manifest.json" in leftovers.kept[0]


def test_a_build_in_progress_is_left_alone(layout: DataLayout) -> None:
    build(layout, segment_s=4.0)
    folder = layout.shards("demo")
    (folder / ".train.x.tmp").write_bytes(b"half")
    with lock(folder / ".lock"):
        leftovers = collect_leftovers(layout, delete=True)
    assert leftovers.found == []
    assert "is being written by process" in leftovers.kept[0]


def test_temporaries_go_when_their_lock_is_free(layout: DataLayout) -> None:
    run = write_run(layout, "film-tiny-0", shards=[train_fingerprint(layout)])
    half = run / "checkpoints" / ".step-0000010.x.tmp"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half")
    (layout.shards("demo") / ".train.y.tmp").write_bytes(b"half a shard")
    _write(layout.runs / ".models.json.z.tmp", "{")
    with lock(run / ".lock"):
        assert found(layout) == {"shards/demo/.train.y.tmp"}
    leftovers = collect_leftovers(layout, delete=True)
    assert {leftover.n_bytes for leftover in leftovers.found} == {4, 12}
    assert not half.exists()
    assert any(".models.json.z.tmp: no lock" in sentence for sentence in leftovers.kept)


def test_models_that_no_run_holds_go_but_never_the_champion_or_the_one_before(
    layout: DataLayout,
) -> None:
    for model_id in (MODEL, OTHER, GONE, f"spectrum-{MODEL}", f"spectrum-{GONE}"):
        embed(layout, model_id)
    embed(layout, "clap-audio-0123456789abcdef")
    run = write_run(layout, "film-tiny-0", shards=[train_fingerprint(layout)], model=MODEL)
    write_champion(layout, OTHER, run / "model")
    write_champion(layout, MODEL, run / "model")
    shutil.rmtree(run)
    gone = {
        f"{place}/{m}" for place in ("embeddings", "lancedb") for m in (GONE, f"spectrum-{GONE}")
    }
    with lock(layout.embeddings(GONE, "demo") / ".lock"):
        assert found(layout) == {path for path in gone if "spectrum" in path}
    assert found(layout, delete=True) == gone
    assert not any((layout.home / path).exists() for path in gone)
    for model_id in (MODEL, OTHER, f"spectrum-{MODEL}", "clap-audio-0123456789abcdef"):
        assert (layout.embeddings(model_id, "demo") / "gallery.parquet").is_file()
        assert (layout.lancedb / model_id).is_dir()


def test_what_beat_tracking_and_the_other_protocol_made_goes_with_its_model(
    layout: DataLayout,
) -> None:
    write_run(layout, "film-tiny-0", shards=[train_fingerprint(layout)], model=MODEL)
    for model_id in (MODEL, GONE, "log-mel-0123456789abcdef"):
        _write(layout.beat_features(model_id, "demo") / "00000.npy", "x")
        _write(layout.beat_features(model_id, "demo") / ".lock", "")
    for name, model_id in (("film", MODEL), ("old", GONE), ("log-mel", "log-mel-0123")):
        write_json(layout.beat_probes(name) / "manifest.json", {"model_id": model_id})
    _write(layout.beat_probes("begun") / "fold-0.safetensors", "x")
    _write(layout.embeddings(GONE, "demo") / "predecessor" / "gallery.parquet", "x")
    _write(layout.embeddings(GONE, "demo") / "predecessor" / ".lock", "")
    gone = {f"embeddings/{GONE}", f"beats/features/{GONE}", "beats/probes/old"}
    with lock(layout.beat_features(GONE, "demo") / ".lock"):
        assert found(layout) == gone - {f"beats/features/{GONE}"}
    with lock(layout.embeddings(GONE, "demo") / "predecessor" / ".lock"):
        assert found(layout) == gone - {f"embeddings/{GONE}"}
    leftovers = collect_leftovers(layout, delete=True)
    assert {Path(x.path).relative_to(layout.home).as_posix() for x in leftovers.found} == gone
    assert not any((layout.home / path).exists() for path in gone)
    assert any("begun does not say whose probes" in sentence for sentence in leftovers.kept)
    for path in ("features/log-mel-0123456789abcdef", f"features/{MODEL}", "probes/film"):
        assert (layout.beats / path).is_dir()


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
