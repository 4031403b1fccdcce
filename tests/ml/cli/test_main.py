import argparse
import errno
import re
import resource
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ml.cli import upkeep
from ml.cli.main import FAILED, GROUPS, VERBS, WRONG_USE, get_parser, main


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_found_and_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith(f"usage: stems {verb} [-h]")
    assert len(said.splitlines()) > 4


def test_every_verb_and_action_has_examples_that_are_right_as_they_stand():
    top = get_parser(is_complete=True)
    for parser in _all_parsers(top):
        _, heading, lines = parser.format_help().partition("\nexample")
        assert heading, parser.prog
        for line in lines.splitlines()[1:]:
            words = re.findall(r"\bstems ([^#>)]*)", line)[0]
            assert top.parse_args(shlex.split(words)).verb in parser.prog


def test_no_help_names_a_default_that_says_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "1000")
    parsers = list(_all_parsers(get_parser(is_complete=True)))
    assert len(parsers) > 35
    for parser in parsers:
        said = parser.format_help()
        assert "default: None" not in said
        assert "default: settings" not in said
        assert all(line.count("default: ") < 2 for line in said.splitlines()), said


def _all_parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                yield verb
                yield from _all_parsers(verb)


def test_shells_complete_verbs_options_and_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "mix.wav").touch()
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    asked = "COMP_WORDS=(stems %s); COMP_CWORD=%d; _shtab_stems; echo ${COMPREPLY[@]}"
    for words, expected in (
        (("que",), "query"),
        (("query", "--instr"), "--instrument"),
        (("corpus", "insp"), "inspect"),
        (("query", "mi"), "mix.wav"),
    ):
        program = script + asked % (" ".join(words), len(words))
        ran = subprocess.run(["bash", "-c", program], capture_output=True, text=True, cwd=tmp_path)
        assert expected in ran.stdout.split(), ran.stderr
    assert main(["completion", "zsh"]) == 0
    assert capsys.readouterr().out.startswith("#compdef stems\n")


def test_verbs_stand_in_groups_that_fit_a_screen(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    for title, group in GROUPS.items():
        start = lines.index(f"{title}:")
        assert [line.split()[0] for line in lines[start + 1 :][: len(group)]] == list(group)


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert re.fullmatch(r"stems \S.* \(revision \S+\)\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["qurey", "mix.wav"], "invalid choice: 'qurey' (did you mean 'query'?); choose from"),
        (["corpus", "inspct"], "did you mean 'inspect'?"),
        (["embed", "demo", "--conditioning", "fien"], "'fien' (did you mean 'fine'?); choose from"),
        (["query", "--instument", "bass"], "did you mean '--instrument'?"),
        (["query", "x.wav", "--home", "y"], "--home goes before the verb: stems --home"),
        (["embed", "demoo"], "corpus 'demoo' is not in"),
        (["embed", "demoo"], "did you mean 'demo'?"),
        (["train", "--preset", "flim"], "did you mean 'film'?"),
        (["train", "--size", "smal"], "did you mean 'small'?"),
    ],
)
def test_a_typo_is_guessed(words, sentence, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    try:
        code = main(["--home", str(tmp_path), *words])
    except SystemExit as ended:
        code = ended.code
    assert code == WRONG_USE
    assert sentence in capsys.readouterr().err


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
    assert all(f"\n  {verb} " in ran.stdout for verb in VERBS)


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
        (KeyboardInterrupt(), "stopped by Ctrl-C; the same command goes on from what is finished"),
        (
            KeyboardInterrupt("a checkpoint is saved"),
            "a checkpoint is saved; the same",
        ),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), "/x: No space left on device; fr"),
        (OSError(errno.EROFS, "Read-only file system", "/x"), "/x: Read-only file system; make"),
        (OSError("no route"), "no route"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), "/x: Permission denied; mend"),
        (RuntimeError("it broke"), "it broke"),
        (
            RuntimeError("IO: No space left on device (os error 28)\nat x.rs"),
            "IO: No space left on",
        ),
        (ValueError("no label '\x1b[31mred\x9b'"), "no label '\\x1b[31mred\\x9b'"),
    ],
)
def test_what_stops_a_verb_is_one_sentence(error, sentence, tmp_path, monkeypatch, capsys):
    def stop(*_: object) -> int:
        raise error

    monkeypatch.setattr(upkeep, "explain_settings", stop)
    code = WRONG_USE if isinstance(error, ValueError) else FAILED
    assert main(["--home", str(tmp_path), "config", "show"]) == code
    said = capsys.readouterr().err
    assert said.startswith(f"stems config: {sentence}")
    assert said.count("\n") == 1


def test_what_is_printed_moves_no_cursor(tmp_path, monkeypatch, capsys):
    row = ("label", "\x1b]0;title\x07\tä\u200b", "config.yaml")
    monkeypatch.setattr(upkeep, "explain_settings", lambda _: [row])
    monkeypatch.setattr(upkeep.json, "dumps", str)
    assert main(["--home", str(tmp_path), "config", "show"]) == 0
    assert "\\x1b]0;title\\x07\tä\u200b" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [["scores"], ["config", "show"], ["corpus", "list"], ["gc"], ["query", "x.wav"]]
)
def test_a_home_that_is_not_there_is_wrong_use(
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    (tmp_path / "data").mkdir()
    assert main(["--home", str(tmp_path / "dta"), *words]) == WRONG_USE
    said = capsys.readouterr().err
    assert f"home {tmp_path / 'dta'} does not exist (did you mean 'data'?); " in said
    assert f"{tmp_path} has the folders: data; " in said
    assert said.count("\n") == 1
    monkeypatch.setenv("STEMS_HOME", str(tmp_path / "dta"))
    assert main(words) == WRONG_USE
    assert f"home {tmp_path / 'dta'} (STEMS_HOME) does not exist" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main(["--home", str(tmp_path / "file"), *words]) == WRONG_USE
    assert "is a file, expected a folder" in capsys.readouterr().err
    assert sorted(x.name for x in tmp_path.iterdir()) == ["data", "file"]


def test_a_home_begins_with_a_corpus(tmp_path: Path):
    songs = tmp_path / "songs" / "one"
    songs.mkdir(parents=True)
    soundfile.write(songs / "bass.wav", np.full(16000, 0.1), 16000)
    home = tmp_path / "home"
    assert main(["--home", str(home), "corpus", "inspect", "folder", str(songs.parent)]) == 0
    assert not home.exists()
    assert main(["--home", str(home), "corpus", "add", "mine", "folder", str(songs.parent)]) == 0
    assert main(["--home", str(home), "corpus", "build", "mine"]) == 0


def test_a_file_over_the_limit_is_one_sentence_and_the_next_run_goes_on(tmp_path: Path):
    command = [sys.executable, "-m", "ml.cli.main", "--home", str(tmp_path), "demo"]
    command += ["--train-songs", "2", "--heldout-songs", "2", "--workers", "1"]
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (20_000, 20_000))
    ran = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit)
    assert ran.returncode == FAILED
    assert "Traceback" not in ran.stderr
    assert "ulimit -f" in ran.stderr.splitlines()[-1]
    assert subprocess.run(command, capture_output=True).returncode == 0
