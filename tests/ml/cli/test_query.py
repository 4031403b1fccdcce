from __future__ import annotations

from pathlib import Path

import pytest

from ml.cli.main import main


@pytest.mark.parametrize("arguments", [["query", "mix.wav"], ["table", "path"]])
def test_without_a_model_says_what_to_do(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--home", str(tmp_path), *arguments]) == 2
    assert "no model was promoted yet" in capsys.readouterr().err
    assert main(["--home", str(tmp_path), *arguments, "--model", "film"]) == 2
    assert "'film' is neither a trained model" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_embed_and_evaluate_name_an_unknown_corpus(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["embed", "nope"], ["evaluate", "retrieval", "--corpus", "nope"]):
        assert main(["--home", str(tmp_path), *arguments]) == 2
        assert "'nope'" in capsys.readouterr().err
