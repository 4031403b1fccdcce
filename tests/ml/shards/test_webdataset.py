"""The tars as plain WebDataset: what the README of the shards tells people to write."""

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from webdataset.compat import WebDataset

import ml.shards
from ml.shards.index import read_index
from ml.shards.pairs import PairConfig
from ml.shards.reader import ShardPairs


@pytest.fixture
def snippet():
    """The one block of Python in the README."""
    text = (Path(ml.shards.__file__).parent / "README.md").read_text(encoding="utf-8")
    (block,) = text.split("```python\n")[1:]
    return block.partition("```")[0]


@pytest.fixture(params=["flac_corpus", "pcm16_corpus"])
def corpus(request):
    return request.getfixturevalue(request.param)


def test_the_readme_reads_every_segment_as_it_says(corpus, snippet, tmp_path, monkeypatch, capsys):
    (tmp_path / "data" / "shards").mkdir(parents=True)
    (tmp_path / "data" / "shards" / "demo").symlink_to(corpus.folder)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(snippet, "README.md", "exec"), names)
    indexed = {
        segment.key: segment
        for path in corpus.folder.glob("*.index.json")
        for segment in read_index(path).segments
    }
    read = {key: rest for key, *rest in names["segments"]}
    assert read.keys() == indexed.keys()
    assert capsys.readouterr().out.count("\n") == len(indexed)
    for key, (stems, labels, conditions) in read.items():
        segment = indexed[key]
        assert stems.shape == (len(segment.stems), segment.samples)
        assert labels == [list(stem.labels) for stem in segment.stems]
        for stem, waveform, rows in zip(segment.stems, stems, conditions, strict=True):
            start = round(segment.start_s * 16000)
            source = corpus.source(stem.stem_id)[start : start + segment.samples]
            np.testing.assert_allclose(waveform[: len(source)], source, atol=stem.gain / 32768)
            wanted = corpus.encoder.encode(stem.labels or ["music"])
            np.testing.assert_allclose(rows, wanted, atol=1e-3)


@pytest.mark.parametrize("workers", [0, 2])
def test_pairs_come_from_the_same_samples(flac_corpus, workers):
    urls = [str(path) for path in sorted(flac_corpus.folder.glob("[!.]*.tar"))]
    keys = {sample["__key__"] for sample in WebDataset(urls, shardshuffle=False)}
    config = PairConfig(chunk_s=2.0, min_active_s=0.3, window_shards=2)
    pairs = ShardPairs([flac_corpus.folder], config=config, batch_size=4, seed=0, workers=workers)
    drawn = {key for batch in islice(pairs.batches(), 12) for key in batch.keys}
    assert drawn <= keys
    assert (
        len(keys)
        == json.loads((flac_corpus.folder / "manifest.json").read_text())["summary"]["segments"]
    )
