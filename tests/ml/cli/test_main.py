import subprocess
import sys

import pytest

from ml.cli.main import VERBS, WRONG_USE, main


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
