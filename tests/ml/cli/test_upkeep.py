import argparse

from ml.artifacts import DataLayout
from ml.cli import upkeep
from ml.settings import load_settings


def run(home, *words):
    parser = argparse.ArgumentParser()
    upkeep.add_parser(parser.add_subparsers())
    args = parser.parse_args(["gc", *words])
    return args.run(args, load_settings(home))


def test_it_lists_bytes_and_reasons_and_deletes_only_when_told_to(tmp_path, capsys):
    layout = DataLayout(home=tmp_path)
    folder = layout.embeddings("0" * 16, "demo")
    folder.mkdir(parents=True)
    (folder / "gallery.parquet").write_bytes(b"x" * 1234)
    assert run(tmp_path) == 0
    printed = capsys.readouterr().out
    assert "1,234  embeddings/0000000000000000: no run, champion" in printed
    assert "1 leftover, 1,234 bytes; delete with: stems gc --delete" in printed
    assert folder.is_dir()
    assert run(tmp_path, "--delete") == 0
    assert "1 leftover, 1,234 bytes deleted" in capsys.readouterr().out
    assert not folder.exists()
    run(tmp_path)
    assert "0 leftovers, 0 bytes" in capsys.readouterr().out
