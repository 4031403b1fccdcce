"""Checks of the artifacts: blocking where going on would be expensive, else reporting.

A check returns numbers, not just a verdict. Blocking checks stop what comes later in the same run.
https://docs.dagster.io/guides/test/asset-checks
"""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import dagster as dg

from assets_def.assets.corpus import stem_shards
from assets_def.assets.embeddings import stem_embeddings
from assets_def.assets.retrieval import retrieval_scores
from assets_def.assets.training import contrastive_encoder, stem_jepa
from assets_def.resources import StemsHome
from ml.artifacts import read_json
from ml.shards.index import ShardIndex, index_path, read_index, read_shards_manifest

SAMPLED_PAIRS = 64
"""How many pairs ``no_silent_targets`` listens to."""
MAX_COSINE = 0.99
"""Mean cosine between stems above which a gallery has collapsed to a point."""
MIN_RANK = 2.0
"""Effective number of dimensions below which a gallery has collapsed."""


@dg.asset_check(asset=stem_shards, blocking=True)
def no_silent_targets(
    context: dg.AssetCheckExecutionContext, home: StemsHome
) -> dg.AssetCheckResult:
    """Every stored stem sounds where its index says, and drawn targets are not silent."""
    folder = home.layout.shards(context.partition_key)
    stems = [s for x in _indexes(folder) for segment in x.segments for s in segment.stems]
    silent = sum(stem.gain <= 0 or not stem.intervals for stem in stems)
    levels_db = _target_levels_db(folder)
    silent_targets = sum(level == -math.inf for level in levels_db)
    numbers: dict[str, float] = {
        "stems": len(stems),
        "silent_stems": silent,
        "sampled_targets": len(levels_db),
        "silent_targets": silent_targets,
    }
    if levels_db and not silent_targets:
        numbers["quietest_target_db"] = round(min(levels_db), 1)
    return dg.AssetCheckResult(passed=silent + silent_targets == 0, metadata=numbers)


@dg.asset_check(asset=stem_shards, blocking=True)
def no_track_in_two_splits(
    context: dg.AssetCheckExecutionContext, home: StemsHome
) -> dg.AssetCheckResult:
    """No track, and no recording under another name, is in two splits."""
    from ml.corpora.table import read_corpus_tracks

    name = context.partition_key
    shards = read_shards_manifest(home.layout.shards(name))["shards"]
    split_of: dict[str, set[str]] = {}
    for shard in shards:
        for track in shard["tracks"]:
            split_of.setdefault(track, set()).add(shard["split"])
    splits_of_audio: dict[str, set[str]] = {}
    table = read_corpus_tracks(home.layout, name)
    for track, content, active_s in table["track_id", "content_hash", "active_s"].iter_rows():
        if active_s > 0:
            splits_of_audio.setdefault(content, set()).update(split_of.get(track, ()))
    tracks = sum(len(splits) > 1 for splits in split_of.values())
    stems = sum(len(splits) > 1 for splits in splits_of_audio.values())
    per_split = Counter(split for splits in split_of.values() for split in splits)
    return dg.AssetCheckResult(
        passed=tracks + stems == 0,
        metadata={
            "tracks_in_two_splits": tracks,
            "stems_in_two_splits": stems,
            **{f"{split}_tracks": count for split, count in sorted(per_split.items())},
        },
    )


@dg.asset_check(asset=contrastive_encoder, name="loss_is_finite", blocking=True)
def contrastive_loss_is_finite(home: StemsHome) -> dg.AssetCheckResult:
    """The last losses of phase 1 are finite numbers."""
    return _losses_are_finite(home, ["contrastive"])


@dg.asset_check(asset=stem_jepa, name="loss_is_finite", blocking=True)
def jepa_loss_is_finite(home: StemsHome) -> dg.AssetCheckResult:
    """The last losses of every preset are finite numbers."""
    return _losses_are_finite(home, home.settings().training.presets)


@dg.asset_check(asset=stem_embeddings, blocking=True)
def embeddings_are_not_collapsed(
    context: dg.AssetCheckExecutionContext, home: StemsHome
) -> dg.AssetCheckResult:
    """The gallery of each trained model spreads over more than a point or a line."""
    from ml.retrieval.baselines import UNTRAINED
    from ml.retrieval.embedding_files import GALLERY, read_table, vectors_of
    from ml.training.model_index import read_models

    layout, numbers, is_spread = home.layout, {}, True
    for name, checkpoint in read_models(layout).items():
        model_id = read_json(checkpoint / "manifest.json")["model_id"]
        gallery = read_table(layout.embeddings(model_id, context.partition_key) / GALLERY)
        cosine, rank = _spread(vectors_of(gallery))
        numbers |= {f"{name}/mean_cosine": cosine, f"{name}/effective_rank": rank}
        if name != UNTRAINED:
            is_spread &= cosine <= MAX_COSINE and rank >= min(MIN_RANK, gallery.num_rows)
    return dg.AssetCheckResult(passed=is_spread, metadata=numbers)


@dg.asset_check(asset=retrieval_scores)
def retrieval_is_above_chance(
    context: dg.AssetCheckExecutionContext, home: StemsHome
) -> dg.AssetCheckResult:
    """Recall@10 of the model that queries use lies above chance by its interval (a warning)."""
    from ml.retrieval.evaluate import EVALUATION
    from ml.retrieval.score_files import read_scores

    preset = home.settings().training.presets[0]
    rows = read_scores(home.layout, evaluation=EVALUATION, corpus=context.partition_key)
    row = next(r for r in rows if r["model"] == preset and r["metric"] == "recall@10")
    lowest = row["value"] if row["low"] is None else row["low"]
    keys = ("value", "low", "high", "chance", "n_queries", "n_gallery")
    return dg.AssetCheckResult(
        passed=lowest > row["chance"],
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"model": preset, **{key: row[key] for key in keys if row[key] is not None}},
    )


def _indexes(folder: Path) -> list[ShardIndex]:
    shards = read_shards_manifest(folder)["shards"]
    return [read_index(index_path(folder, shard["name"])) for shard in shards]


def _target_levels_db(folder: Path) -> list[float]:
    """RMS in dB of targets as training draws them; -inf: silence. Empty without a train split."""
    from ml.shards.reader import ShardPairs

    if not any(s["split"] == "train" and s["segments"] for s in _shards(folder)):
        return []
    pairs = ShardPairs([folder], batch_size=1, seed=0)
    levels = []
    for _, batch in zip(range(min(SAMPLED_PAIRS, pairs.n_segments)), pairs.batches(), strict=False):
        waveform = batch.target.double() / 32768 * batch.target_gain[:, None]
        rms = float(waveform.square().mean().sqrt())
        levels.append(20 * math.log10(rms) if rms > 0 else -math.inf)
    return levels


def _shards(folder: Path) -> list[dict[str, Any]]:
    return read_shards_manifest(folder)["shards"]


def _losses_are_finite(home: StemsHome, presets: Any) -> dg.AssetCheckResult:
    from ml.training.model_index import read_models
    from ml.training.tracking import RECORD_NAME, read_record

    models, last = read_models(home.layout), {}
    for preset in presets:
        for line in read_record(models[preset].parent / RECORD_NAME):
            losses = {k: v for k, v in line["metrics"].items() if k.endswith("loss")}
            last |= {f"{preset}/{name}": value for name, value in losses.items()}
    shown = {name: value if math.isfinite(value) else str(value) for name, value in last.items()}
    is_finite = bool(last) and all(math.isfinite(value) for value in last.values())
    return dg.AssetCheckResult(passed=is_finite, metadata=shown)


def _spread(vectors: Any) -> tuple[float, float]:
    """Mean cosine over pairs of unit vectors (stem, dim), and their effective rank.

    The effective rank is exp of the entropy of the normalised singular values (Roy and Vetterli
    2007): 1 for a single direction, up to dim.
    """
    import numpy as np

    count = len(vectors)
    total = np.square(vectors.sum(0, dtype=np.float64)).sum()
    cosine = (total - count) / max(1, count * (count - 1))
    values = np.linalg.svd(vectors.astype(np.float64), compute_uv=False)
    shares = values[values > 0] / values.sum()
    return float(cosine), float(np.exp(-(shares * np.log(shares)).sum()))
