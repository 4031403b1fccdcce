import errno
import resource
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from ml.cli import upkeep
from ml.cli.main import FAILED, VERBS, WRONG_USE, main


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_found_and_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith(f"usage: stems {verb} [-h]")
    assert "(default: None)" not in said
    assert len(said.splitlines()) > 4


def test_the_help_of_the_command_imports_no_verb():
    program = (
        "import sys\nfrom ml.cli.main import get_parser\ntext = get_parser().format_help()\n"
        "print([m for m in sys.modules if m.startswith('ml.')], 'numpy' in sys.modules)\n"
        "print(text)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout.startswith("['ml.cli', 'ml.cli.options', 'ml.cli.main'] False\n")
    assert all(f"\n    {verb}" in ran.stdout for verb in VERBS)


@pytest.mark.parametrize("arguments", [[], ["sing"], ["query", "--sing"]])
def test_wrong_use_is_said_and_has_its_exit_code(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == WRONG_USE
    assert "stems" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (KeyboardInterrupt(), "interrupted"),
        (KeyboardInterrupt("a checkpoint is saved"), "a checkpoint is saved"),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), "/x: No space left on device; fr"),
        (OSError(errno.EROFS, "Read-only file system", "/x"), "/x: Read-only file system; make"),
        (OSError("no route"), "no route"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), "/x: Permission denied; mend"),
        (RuntimeError("it broke"), "it broke"),
    ],
)
def test_what_stops_a_verb_is_one_sentence(error, sentence, tmp_path, monkeypatch, capsys):
    def stop(*_: object) -> int:
        raise error

    monkeypatch.setattr(upkeep, "explain_settings", stop)
    assert main(["--home", str(tmp_path), "config", "show"]) == FAILED
    said = capsys.readouterr().err
    assert said.startswith(f"stems config: {sentence}")
    assert said.count("\n") == 1


def test_a_file_over_the_limit_is_one_sentence_and_the_next_run_goes_on(tmp_path: Path):
    command = [sys.executable, "-m", "ml.cli.main", "--home", str(tmp_path), "demo"]
    command += ["--train-songs", "2", "--heldout-songs", "2", "--workers", "1"]
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (20_000, 20_000))
    ran = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit)
    assert ran.returncode == FAILED
    assert "Traceback" not in ran.stderr
    assert "ulimit -f" in ran.stderr.splitlines()[-1]
    assert subprocess.run(command, capture_output=True).returncode == 0
