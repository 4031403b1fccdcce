from pathlib import Path

import pytest
import yaml

from ml.corpora.registration import add_corpus
from ml.settings import Settings, SettingsError, load_settings
from pipelines import demo
from pipelines.home import QUICK, QUICK_SONGS, TEMPLATES, install_home, open_instance


def defaults(home: Path) -> dict:
    values = Settings(home=home).model_dump(mode="json", exclude={"home"})
    for corpus in values["corpora"].values():
        assert corpus.pop("options") == {}
    return values


def test_template_says_the_defaults(tmp_path: Path, monkeypatch):
    for name in ("STEMS_TRAINING__SEED", "STEMS_TRACKING__URI"):
        monkeypatch.delenv(name, raising=False)
    written = yaml.safe_load((TEMPLATES / "config.yaml").read_text())
    assert written == defaults(tmp_path)


def test_installed_template_changes_nothing(tmp_path: Path):
    before = load_settings(tmp_path)
    written = install_home(before)
    assert {path.name for path in written} == {"config.yaml", "dagster.yaml"}
    assert load_settings(tmp_path).model_dump() == before.model_dump()


def test_nothing_of_the_user_is_overwritten(tmp_path: Path):
    settings = load_settings(tmp_path)
    (tmp_path / "config.yaml").write_text("training: {seed: 7}\n")
    assert {path.name for path in install_home(settings)} == {"dagster.yaml"}
    assert load_settings(tmp_path).training.seed == 7


def test_demo_stores_audio_that_is_fast_to_read(tmp_path: Path):
    install_home(load_settings(tmp_path), demo="full")
    settings = load_settings(tmp_path)
    assert settings.shards.payload == "pcm16"
    assert (settings.demo.train_songs, settings.training.overrides) == (400, {})


def test_quick_demo_trains_less_by_the_settings_of_its_home(tmp_path: Path):
    install_home(load_settings(tmp_path), demo="quick")
    settings = load_settings(tmp_path)
    assert settings.shards.payload == "pcm16"
    training = settings.training
    assert (settings.demo.model_dump(exclude={"seed"}), training.overrides) == (QUICK_SONGS, QUICK)
    assert (training.presets, training.start) == (("two-part", "film"), "starter")


def test_full_demo_refuses_the_home_of_a_quick_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    install_home(load_settings(tmp_path), demo="quick")
    with pytest.raises(SystemExit):
        demo.main(["--home", str(tmp_path), "--full"])
    assert "another home" in capsys.readouterr().err


def test_corpus_can_be_added_to_the_template(tmp_path: Path):
    install_home(load_settings(tmp_path))
    add_corpus(load_settings(tmp_path), "mine", kind="folder", root=tmp_path / "x", options={})
    assert list(load_settings(tmp_path).corpora) == ["demo", "demo-plain", "demo-swapped", "mine"]


def test_instance_knows_the_corpora_and_sends_no_telemetry(tmp_path: Path):
    settings = load_settings(tmp_path)
    install_home(settings)
    for _ in range(2):
        with open_instance(settings) as instance:
            assert instance.get_dynamic_partitions("corpus") == list(settings.corpora)
            assert not instance.telemetry_enabled
            assert instance.root_directory == str(settings.layout.dagster_home)


@pytest.mark.parametrize("name", ["who?", "a%20b"])
def test_a_folder_that_dagster_would_leave_is_refused(tmp_path: Path, name: str):
    """Its URL of a database would name another one."""
    with pytest.raises(SettingsError, match="another STEMS_HOME"):
        install_home(load_settings(tmp_path / name))
    assert list(tmp_path.iterdir()) == []
