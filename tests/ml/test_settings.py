"""Settings: who wins, where a value came from, and wrong ones are named."""

from pathlib import Path

import pytest
import yaml

from ml.settings import SettingsError, explain_settings, load_settings


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("STEMS_TRAINING__SEED", raising=False)
    (tmp_path / "config.yaml").write_text("training: {seed: 1, size: small}\n")
    return tmp_path


def test_file_beats_default_environment_beats_file_option_beats_all(home, monkeypatch):
    assert load_settings(home).training.seed == 1
    monkeypatch.setenv("STEMS_TRAINING__SEED", "2")
    assert load_settings(home).training.seed == 2
    chosen = load_settings(home, {"training": {"seed": 3}}).training
    assert (chosen.seed, chosen.size) == (3, "small")


def test_each_value_says_where_it_came_from(home, monkeypatch):
    monkeypatch.setenv("STEMS_TRAINING__SEED", "2")
    sources = {key: source for key, _, source in explain_settings(load_settings(home))}
    assert sources["training.seed"] == "environment STEMS_TRAINING__SEED"
    assert sources["training.size"] == str(home / "config.yaml")
    assert sources["demo.seed"] == "default"


def test_without_demo_songs_no_beats_are_tracked_unless_somebody_says_of_what(home):
    assert load_settings(home).beats.corpora == ("demo",)
    mine = {"mine": {"kind": "folder", "root": "mine"}}
    (home / "config.yaml").write_text(yaml.safe_dump({"corpora": mine}))
    assert load_settings(home).beats.corpora == ()
    assert load_settings(home, {"beats": {"corpora": ["mine"]}}).beats.corpora == ("mine",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training: {sed: 1}", r"training\.sed = 1"),
        ("training: {seed: -1}", r"training\.seed = -1.*greater than or equal to 0"),
        ("training: {size: huge}", r"training\.size = 'huge'.*'tiny'"),
        ("training: {seed: 99999999999999999999999}", r"training\.seed = 9+: .*less than"),
        ("training: [", "is not YAML"),
        ("- training\n- demo", "holds a list, expected sections"),
        ("training: {seed: 1}\ntraining: {seed: 2}", "the key 'training' stands twice"),
        ("x: &a [1, 1]\ny: [*a, *a]", "an alias"),
        ("[" * 3000 + "]" * 3000, "more than 40 lists and mappings in each other"),
        ("# " + "x" * 1_000_001, "expected at most 1,000,000"),
        ("corpora: {x: {kind: mp3, root: x}}", r"corpora\.x\.kind = 'mp3'"),
    ],
)
def test_a_wrong_setting_is_named_with_the_file(home, text, message):
    (home / "config.yaml").write_text(text)
    with pytest.raises(SettingsError, match=message) as caught:
        load_settings(home)
    assert str(home / "config.yaml") in str(caught.value)


def test_a_file_in_another_encoding_is_named(home):
    (home / "config.yaml").write_bytes("demo: {seed: 1} # für".encode("latin-1"))
    with pytest.raises(SettingsError, match=r"config\.yaml is not UTF-8"):
        load_settings(home)


@pytest.mark.parametrize(
    "name", ["", "..", "../../escaped", "*", "a/b", "a\0b", "a\n", "é", "x" * 101]
)
def test_a_corpus_has_the_name_of_a_folder(home, name):
    corpora = {name: {"kind": "demo", "root": "corpora/demo"}}
    (home / "config.yaml").write_text(yaml.safe_dump({"corpora": corpora}))
    with pytest.raises(SettingsError, match="is no folder name; expected letters"):
        load_settings(home)


def test_roots_are_relative_to_the_home_and_unknown_corpora_list_the_known(home):
    settings = load_settings(home)
    assert settings.corpus("demo").root == home / "corpora" / "demo"
    with pytest.raises(SettingsError, match=r"'nope'.*demo, demo-plain, demo-swapped.*corpus add"):
        settings.corpus("nope")


def test_without_a_tracking_uri_the_database_is_in_the_home(home):
    assert load_settings(home).tracking_uri == f"sqlite:///{home / 'mlflow' / 'mlflow.db'}"
