from __future__ import annotations

import argparse

from ml.cli.corpus import add_parser
from ml.settings import load_settings


def test_stems_demo_builds_the_corpora_and_then_reuses_them(tmp_path, capsys):
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    settings = load_settings(tmp_path, {"demo": {"train_songs": 2, "heldout_songs": 2}})
    args = parser.parse_args(["demo", "--seed", "3", "--workers", "1"])
    assert args.run(args, settings) == 0
    assert "demo-swapped: built, 2 songs" in capsys.readouterr().out
    assert args.run(args, settings) == 0
    assert "demo: up to date, 4 songs" in capsys.readouterr().out
