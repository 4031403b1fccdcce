"""Artifacts of other formats are named with the command that makes them again."""

from ml.artifacts import DataLayout, finish, read_json, write_json
from ml.cli.main import main
from ml.kinds import CORPUS_TRACKS, SCORES


def test_other_formats_are_named_with_their_command(tmp_path, capsys):
    layout = DataLayout(home=tmp_path)
    finish(layout.tracks("band"), {}, CORPUS_TRACKS, summary={})
    finish(layout.scores("alignment", "band"), {}, SCORES, summary={})
    assert main(["--home", str(tmp_path), "migrate"]) == 0
    manifest = layout.scores("alignment", "band") / "manifest.json"
    write_json(manifest, {**read_json(manifest), "format_version": 9})
    (layout.tracks("band") / "manifest.json").write_text("[]")
    assert main(["--home", str(tmp_path), "migrate"]) == 1
    said = capsys.readouterr().out
    assert (
        "tracks/band: format None, expected 1; make it again with: stems corpus build band" in said
    )
    assert (
        "format 9, expected 1; make it again with: stems evaluate alignment --corpus band" in said
    )
