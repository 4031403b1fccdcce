"""Checks of corpora and shards: blocking where going on would be expensive, else reporting.

A check returns numbers, not just a verdict. Blocking checks stop what comes later in the same run.
https://docs.dagster.io/guides/test/asset-checks
"""

import math
import statistics
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets_def.assets.corpus import corpus_tracks, label_embeddings, stem_shards
from assets_def.resources import StemsHome
from assets_def.results import corpus_check, earlier_numbers, readable
from ml.shards.folders import ShardFolder, built_folder, intact_indexes
from ml.shards.index import read_shards_manifest

if TYPE_CHECKING:
    import polars as pl

SAMPLED_PAIRS = 64
"""How many pairs ``no_silent_targets`` listens to."""
MAX_HOURS_CHANGE = 0.2
"""Relative change of a corpus's hours above which it has drifted."""
MAX_LEVEL_CHANGE_DB = 3.0
"""Change of the median stem level above which a corpus has drifted."""
MAX_LABEL_CHANGE = 0.1
"""Share of stems with another label than before above which a corpus has drifted."""
_NORM_ERROR = 1e-3


@corpus_check(asset=corpus_tracks)
def corpus_has_not_drifted(
    context: dg.AssetCheckExecutionContext, home: StemsHome
) -> dg.AssetCheckResult:
    """Hours, labels and loudness against the last other build of the corpus (a warning)."""
    from ml.corpora.table import read_corpus_tracks

    name = context.partition_key
    now = readable(corpus_statistics(read_corpus_tracks(home.layout, name)) | {"corpus": name})
    earlier = earlier_numbers(context, corpus_tracks, "corpus_has_not_drifted")
    before = next((x for x in earlier if _is_other_build(x, now)), None)
    changes = {} if before is None else corpus_changes(before, now)
    limits = {
        "hours_change": MAX_HOURS_CHANGE,
        "level_change_db": MAX_LEVEL_CHANGE_DB,
        "label_change": MAX_LABEL_CHANGE,
    }
    return dg.AssetCheckResult(
        passed=all(abs(change) <= limits[key] for key, change in changes.items()),
        severity=dg.AssetCheckSeverity.WARN,
        metadata={**now, **readable(changes)},
    )


@corpus_check(asset=label_embeddings, blocking=True)
def labels_have_vectors(
    context: dg.AssetCheckExecutionContext, home: StemsHome
) -> dg.AssetCheckResult:
    """Every label text of the corpus has a condition, finite and of unit norm."""
    import numpy as np

    from ml.corpora.label_embeddings import read_label_vectors
    from ml.corpora.table import read_corpus_tracks
    from ml.tracks import MUSIC

    table = read_corpus_tracks(home.layout, context.partition_key)
    vectors = read_label_vectors(home.layout, context.partition_key)
    texts = {MUSIC, *(text for labels in table["labels"].to_list() for text in labels)}
    lacking = sorted(texts - vectors.keys())
    off = [text for text, x in vectors.items() if not abs(np.linalg.norm(x) - 1) <= _NORM_ERROR]
    labelled = sum(bool(labels) for labels in table["labels"].to_list())
    return dg.AssetCheckResult(
        passed=not lacking and not off,
        metadata={
            "texts": len(texts),
            "without_vector": len(lacking),
            "not_unit_norm": len(off),
            "labelled_stems_percent": round(100 * labelled / max(1, table.height), 1),
            **({"first_without_vector": lacking[0]} if lacking else {}),
        },
    )


@corpus_check(asset=stem_shards, blocking=True)
def shards_have_their_checksums(
    context: dg.AssetCheckExecutionContext, home: StemsHome
) -> dg.AssetCheckResult:
    """Every shard of the manifest is there, byte by byte as it was written."""
    from ml.shards.inspect import check_shards

    report = check_shards(built_folder(home.layout, context.partition_key))
    first = {"first_problem": report.problems[0]} if report.problems else {}
    return dg.AssetCheckResult(
        passed=not report.problems,
        metadata={
            "shards": report.n_shards,
            "bytes": report.n_bytes,
            "problems": len(report.problems),
            **first,
        },
    )


@corpus_check(asset=stem_shards, blocking=True)
def no_silent_targets(
    context: dg.AssetCheckExecutionContext, home: StemsHome
) -> dg.AssetCheckResult:
    """Every stored stem sounds where its index says, and drawn targets are not silent."""
    folder = built_folder(home.layout, context.partition_key)
    stems = [s for x in intact_indexes(folder) for segment in x.segments for s in segment.stems]
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


@corpus_check(asset=stem_shards, blocking=True)
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


def corpus_statistics(table: "pl.DataFrame") -> dict[str, Any]:
    """Measure what drift is seen by.

    Args:
        table: ``corpus_tracks``.

    Returns:
        ``hours`` (of stems), ``median_level_db`` over stems that sound (missing without any),
        ``labels``: finest label → number of stems, the most frequent first.
    """
    from ml.tracks import MUSIC

    levels_db = table.filter(table["active_s"] > 0)["rms_db"].drop_nulls().to_list()
    level = {"median_level_db": statistics.median(levels_db)} if levels_db else {}
    labels = Counter(labels[-1] if labels else MUSIC for labels in table["labels"].to_list())
    hours = sum(table["duration_s"].drop_nulls().to_list()) / 3600
    return {"hours": hours, **level, "labels": dict(labels.most_common())}


def corpus_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, float]:
    """Say how two builds of a corpus differ.

    Returns:
        ``hours_change`` relative to before; ``level_change_db``; ``label_change``, the share of
        stems that would need another label for both to have the same ones (total variation).
    """
    shares = [
        {text: n / max(1, sum(x["labels"].values())) for text, n in x["labels"].items()}
        for x in (before, now)
    ]
    texts = shares[0].keys() | shares[1].keys()
    moved = sum(abs(shares[0].get(text, 0) - shares[1].get(text, 0)) for text in texts) / 2
    changes = {
        "hours_change": (now["hours"] - before["hours"]) / max(before["hours"], 1e-9),
        "label_change": moved,
    }
    if "median_level_db" in before and "median_level_db" in now:
        changes["level_change_db"] = now["median_level_db"] - before["median_level_db"]
    return changes


def _is_other_build(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    keys = ("hours", "median_level_db", "labels")
    is_same = [before.get(key) for key in keys] == [now.get(key) for key in keys]
    return before.get("corpus") == now["corpus"] and not is_same


def _target_levels_db(folder: ShardFolder) -> list[float]:
    """Measure targets as training draws them: RMS in dB, -inf: silence; none without training."""
    from ml.shards.reader import ShardPairs

    if not any(s["split"] == "train" and s["segments"] for s in folder.manifest()["shards"]):
        return []
    pairs = ShardPairs([folder], batch_size=1, seed=0)
    levels = []
    for _, batch in zip(range(min(SAMPLED_PAIRS, pairs.n_segments)), pairs.batches(), strict=False):
        waveform = batch.target.double() / 32768 * batch.target_gain[:, None]
        rms = float(waveform.square().mean().sqrt())
        levels.append(20 * math.log10(rms) if rms > 0 else -math.inf)
    return levels
