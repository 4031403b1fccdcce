import shutil
from collections.abc import Callable
from pathlib import Path

from ml.settings import load_settings
from pipelines.demo import NOTE_NAME, note_state, said_of_what_is_current

CONFIG = """
corpora:
  demo: {kind: demo, root: corpora/demo}
  demo-plain: {kind: demo, root: corpora/demo-plain}
"""
CHANGES: dict[str, Callable[[Path], object]] = {
    "setting": lambda home: (home / "config.yaml").write_text(f"{CONFIG}training: {{seed: 1}}"),
    "song": lambda home: next((home / "corpora" / "demo").rglob("*.wav")).touch(),
    "artifact": lambda home: (home / "shards" / "demo" / "manifest.json").unlink(),
    "model": lambda home: shutil.rmtree(home / "runs"),
    "history": lambda home: shutil.rmtree(home / "dagster"),
}


def test_a_demo_that_ended_well_is_repeated_until_something_changes(home: Path):
    (home / "config.yaml").write_text(CONFIG)
    (home / "dagster" / "history").mkdir(parents=True)
    assert said_of_what_is_current(load_settings(home)) == ""
    for what, change in CHANGES.items():
        note_state(load_settings(home), "R@10 is 50 %")
        assert said_of_what_is_current(load_settings(home)).endswith("\nR@10 is 50 %"), what
        change(home)
        assert said_of_what_is_current(load_settings(home)) == "", what
    (home / NOTE_NAME).unlink()
    assert said_of_what_is_current(load_settings(home)) == ""


def test_what_lies_in_a_store_is_never_taken_for_current(home: Path):
    (home / "config.yaml").write_text(f"{CONFIG}lancedb: {{uri: s3://bucket/tables}}")
    note_state(load_settings(home), "R@10 is 50 %")
    assert said_of_what_is_current(load_settings(home)) == ""
