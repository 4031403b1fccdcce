import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import dagster as dg
import pytest

from assets_def.assets import corpus
from assets_def.resources import StemsHome
from pipelines.build import build_definitions

CONFIG = """
corpora:
  songs: {kind: folder, root: songs}
  others: {kind: folder, root: others}
  gtzan: {kind: beats, root: nowhere}
training: {corpora: [songs]}
beats: {corpora: [songs]}
automation: {settled_after_s: 0}
"""


@pytest.fixture
def resource(tmp_path: Path) -> StemsHome:
    for name in ("songs", "others"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.wav").touch()
    (tmp_path / "config.yaml").write_text(CONFIG)
    return StemsHome(home=str(tmp_path))


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("corpus", ["songs", "others", "gtzan"])
        yield instance


class Looks:
    """Runs of ``observe_corpora``; while each waits, files may change."""

    def __init__(self, resource: StemsHome, instance: dg.DagsterInstance):
        self.job = build_definitions(home=resource).resolve_job_def("observe_corpora")
        self.instance, self.versions = instance, {}

    def changed(self) -> set[str | None]:
        """Look, and return the corpora whose version is another than before."""
        result = self.job.execute_in_process(instance=self.instance)
        events = (event.asset_observation_data for event in result.get_asset_observation_events())
        seen = {e.asset_observation.partition: e.asset_observation.data_version for e in events}
        changed = {name for name, version in seen.items() if self.versions.get(name) != version}
        self.versions |= seen
        return changed


@pytest.fixture
def looks(resource: StemsHome, instance: dg.DagsterInstance) -> Looks:
    return Looks(resource, instance)


def test_a_corpus_that_has_changed_has_another_version(looks: Looks, tmp_path: Path):
    """Corpora without stems are not looked at."""
    assert looks.changed() == {"songs", "others"}
    assert looks.changed() == set()
    (tmp_path / "songs" / "b.wav").touch()
    assert looks.changed() == {"songs"}
    (tmp_path / "songs" / "b.wav").unlink()
    assert looks.changed() == {"songs"}
    assert looks.changed() == set()


def test_a_corpus_that_is_being_copied_keeps_its_version(
    looks: Looks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    looks.changed()
    waits = []

    def copy(seconds: float) -> None:
        waits.append(seconds)
        (tmp_path / "songs" / f"{len(waits)}.wav").touch()

    monkeypatch.setattr(corpus.time, "sleep", copy)
    assert looks.changed() == set()  # nothing has changed: it does not wait
    assert waits == []
    (tmp_path / "songs" / "b.wav").touch()
    (tmp_path / "others" / "b.wav").touch()
    assert looks.changed() == {"others"}
    assert looks.changed() == set()
    monkeypatch.setattr(corpus.time, "sleep", waits.append)
    assert looks.changed() == {"songs"}
    assert len(waits) == 3


def test_a_corpus_that_is_gone_keeps_no_other_from_being_looked_at(looks: Looks, tmp_path: Path):
    shutil.rmtree(tmp_path / "songs")
    assert looks.changed() == {"others"}


def test_a_look_waits_for_the_last_one(resource: StemsHome):
    definitions = build_definitions(home=resource)
    sensor = definitions.resolve_sensor_def("changed_corpora")
    with dg.instance_for_test() as instance:
        for running in (False, True):
            if running:
                job = definitions.resolve_job_def("observe_corpora")
                instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
            data = sensor.evaluate_tick(dg.build_sensor_context(instance=instance))
            assert len(data.run_requests or []) == (not running)


def selected(request: dg.RunRequest) -> set[str]:
    return {key.to_user_string() for key in request.asset_selection or ()}


def nightly(resource: StemsHome, *corpora: str) -> list[dg.RunRequest]:
    repository = build_definitions(home=resource).get_repository_def()
    with dg.instance_for_test() as instance:  # schedules want one with a folder
        instance.add_dynamic_partitions("corpus", list(corpora))
        context = dg.build_schedule_context(
            instance=instance,
            scheduled_execution_time=datetime(2026, 11, 22),
            repository_def=repository,
            resources={"home": resource},
        )
        schedule = repository.get_schedule_def("nightly_evaluation")
        with context:
            return list(schedule.evaluate_tick(context).run_requests or [])


def test_nightly_evaluates_only_what_can_be_evaluated(home: Path, tmp_path: Path):
    """Not beats, not what was never scanned; instruments not of songs that were trained on."""
    from ml.corpora.corpus import open_corpus
    from ml.corpora.label_embeddings import build_label_embeddings
    from ml.corpora.table import build_corpus_tracks, read_corpus_tracks
    from ml.labels.encoders import build_label_encoder

    layout = StemsHome(home=str(home)).layout
    table = read_corpus_tracks(layout, "demo")
    songs = home / "corpora" / "demo" / "songs"
    rows = [
        f"again-{track},{songs / track / Path(files[0]).name}," + " > ".join(labels)
        for track, files, labels, split in table["track_id", "files", "labels", "split"].iter_rows()
        if split == "train"
    ]
    csv = tmp_path / "seen.csv"
    csv.write_text("\n".join(["track_id,audio,labels", *rows]) + "\n")
    build_corpus_tracks("seen", open_corpus("manifest", csv), layout)
    build_label_embeddings("seen", layout, build_label_encoder("minilm"))
    corpora = {
        "demo": {"kind": "demo", "root": "corpora/demo"},
        "seen": {"kind": "manifest", "root": str(csv)},
        "never-scanned": {"kind": "folder", "root": "x"},
        "gtzan": {"kind": "beats", "root": "x"},
    }
    resource = StemsHome(home=str(home), overrides={"corpora": corpora})
    requests = nightly(resource, *corpora, "no-longer-in-the-settings")
    found = {request.partition_key: request for request in requests}
    assert set(found) == {"demo", "seen"}
    assert selected(found["seen"]) == {"stem_embeddings", "retrieval_scores"}
    assert selected(found["demo"]) == selected(found["seen"]) | {"instrument_scores"}
    assert found["demo"].run_key == "evaluation-2026-11-22/evaluate/demo"


def test_nightly_waits_for_a_first_model(tmp_path: Path):
    assert nightly(StemsHome(home=str(tmp_path)), "demo") == []
