import argparse

import pytest

from ml.cli import shards as verb
from ml.settings import load_settings
from ml.shards.inspect import LABELS_SHOWN, save_figure, stem_histograms, stored_stems


@pytest.fixture(scope="module")
def stems(flac_corpus):
    return stored_stems(flac_corpus.layout, "demo")


def test_one_row_for_each_stored_stem_of_each_segment(flac_corpus, stems):
    from ml.shards.inspect import check_shards

    report = check_shards(flac_corpus.folder)
    assert len(stems) == sum(report.stored_stems.values())
    assert stems["segment"].n_unique() == report.summary["segments"]
    assert stems["seconds"].sum() == pytest.approx(3600 * report.summary["stem_hours"], abs=0.5)
    assert stems["active_share"].is_between(0, 1 + 1e-9).all()
    bass = stems.filter(stem_id="song 0.v1/bass")
    assert bass["active_share"].to_list() == pytest.approx([1.0] * len(bass))
    # A sine of 0.2 with noise of 0.02: 10 lg (0.02 + 0.0004) dB.
    assert bass["level_db"].to_list() == pytest.approx([-16.9] * len(bass), abs=0.1)


def test_the_histograms_count_every_row_once(stems):
    figure = stem_histograms(stems, "demo")
    share, level, size, label = figure.axes
    assert heights(share) == len(stems)
    assert heights(level) == stems["stem_id"].n_unique()
    assert heights(size) == stems["segment"].n_unique()
    assert sum(widths(label)) == pytest.approx(stems["seconds"].sum())


def test_many_labels_share_a_bar_and_dollars_are_text(stems):
    import polars as pl

    many = pl.concat(stems.head(1).with_columns(label=pl.lit(f"$x_{i}$")) for i in range(30))
    bars = stem_histograms(many.with_columns(level_db=None, seconds=pl.lit(2.0)), "a$b$").axes[3]
    assert len(bars.patches) == LABELS_SHOWN + 1
    assert widths(bars)[0] == 2.0 * (30 - LABELS_SHOWN)
    assert bars.get_yticklabels()[0].get_text() == f"{30 - LABELS_SHOWN} other labels"
    assert bars.get_yticklabels()[1].get_text().startswith(r"\$x_")


@pytest.mark.parametrize(
    ("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("html", b"<!doctype html>")]
)
def test_inspect_draws_by_suffix(flac_corpus, tmp_path, suffix, start, capsys):
    path = tmp_path / f"histograms.{suffix}"
    assert inspect(flac_corpus, path) == 0
    assert path.read_bytes().startswith(start)
    assert f"{path} is drawn" in capsys.readouterr().out


def test_another_suffix_is_refused(stems, tmp_path):
    with pytest.raises(ValueError, match=r"'\.jpg'; expected \.png, \.svg or \.html"):
        save_figure(stem_histograms(stems, "demo"), tmp_path / "x.jpg", "demo")
    assert not list(tmp_path.iterdir())


def inspect(corpus, path):
    parser = argparse.ArgumentParser()
    verb.add_parser(parser.add_subparsers())
    args = parser.parse_args(["shards", "inspect", "demo", "--plot", str(path)])
    return args.run(args, load_settings(corpus.layout.home))


def heights(axes):
    return sum(bar.get_height() for bar in axes.patches)


def widths(axes):
    return [bar.get_width() for bar in axes.patches]
