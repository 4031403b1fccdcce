"""Checks of corpora and shards, of models and what is published of them, of scores.

A check returns numbers, not just a verdict. Those of data and models block what comes later in the
same run, where going on would be expensive; drift of a corpus and scores are warned of. Scores are
those of the model that would be promoted, the first of ``training.presets``; ``mix_is_heard`` looks
at the champion where it was scored. Whether a model takes the champion's place is decided by
``ml.retrieval.champion.promotion``, not here.
https://docs.dagster.io/guides/test/asset-checks
"""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets_def.assets.beats import beat_scores
from assets_def.assets.corpus import corpus_tracks, label_embeddings, stem_shards
from assets_def.assets.retrieval import champion, retrieval_scores, stem_embeddings
from assets_def.assets.training import contrastive_encoder, stem_jepa
from assets_def.resources import StemsHome
from assets_def.results import corpus_check, earlier_numbers, readable
from ml.artifacts import ArtifactError, read_json
from ml.shards.folders import ShardFolder, built_folder, intact_indexes
from ml.shards.index import read_shards_manifest

if TYPE_CHECKING:
    import polars as pl

    from ml.retrieval.evaluation.compare import MixHeard

SAMPLED_PAIRS = 64
"""How many pairs ``no_silent_targets`` listens to."""
MAX_HOURS_CHANGE = 0.2
"""Relative change of a corpus's hours above which it has drifted."""
MAX_LEVEL_CHANGE_DB = 3.0
"""Change of the median stem level above which a corpus has drifted."""
MAX_LABEL_CHANGE = 0.1
"""Share of stems with another label than before above which a corpus has drifted."""
_NORM_ERROR = 1e-3
MAX_COSINE = 0.99
"""Mean cosine between stems above which a gallery has collapsed to a point."""
MIN_RANK = 2.0
"""Effective number of dimensions below which a gallery has collapsed."""
BEAT_METRIC = "f_measure"
_FIGURES = ("value", "low", "high", "chance", "n_queries", "n_gallery")


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


@dg.asset_check(asset=contrastive_encoder, name="loss_is_finite", blocking=True)
def contrastive_loss_is_finite(home: StemsHome) -> dg.AssetCheckResult:
    """Losses of phase 1 are finite numbers, up to the last."""
    return _losses_are_finite(home, ["contrastive"])


@dg.asset_check(asset=stem_jepa, name="loss_is_finite", blocking=True)
def jepa_loss_is_finite(home: StemsHome) -> dg.AssetCheckResult:
    """Losses of every preset are finite numbers, up to the last."""
    return _losses_are_finite(home, home.settings().training.presets)


@corpus_check(asset=stem_embeddings, blocking=True)
def embeddings_are_not_collapsed(
    context: dg.AssetCheckExecutionContext, home: StemsHome
) -> dg.AssetCheckResult:
    """Galleries of the trained models spread over more than a point or a line."""
    from ml.parquet import read_table
    from ml.retrieval.embeddings.files import GALLERY, vectors_of
    from ml.training.models import UNTRAINED, read_models

    layout, numbers, is_spread = home.layout, {}, True
    for name, checkpoint in read_models(layout).items():
        model_id = read_json(checkpoint / "manifest.json")["model_id"]
        gallery = read_table(layout.embeddings(model_id, context.partition_key) / GALLERY)
        cosine, rank = _spread(vectors_of(gallery))
        numbers |= {f"{name}/mean_cosine": cosine, f"{name}/effective_rank": rank}
        if name != UNTRAINED:
            is_spread &= cosine <= MAX_COSINE and rank >= min(MIN_RANK, gallery.num_rows)
    return dg.AssetCheckResult(passed=is_spread, metadata=readable(numbers))


@corpus_check(asset=stem_embeddings, blocking=True)
def gallery_is_complete(
    context: dg.AssetCheckExecutionContext, home: StemsHome
) -> dg.AssetCheckResult:
    """Tables of the trained models hold every stem and chunk of the corpus as it is now."""
    from ml.retrieval.tables.database import database_uri
    from ml.retrieval.tables.inspect import gallery_gaps
    from ml.retrieval.tables.publish import STEM_TABLE, count_rows
    from ml.training.models import UNTRAINED, read_models

    corpus, gaps, numbers = context.partition_key, [], {}
    for name, checkpoint in read_models(home.layout).items():
        if name == UNTRAINED:
            continue  # queries never use it
        model_id = read_json(checkpoint / "manifest.json")["model_id"]
        gaps += [f"{name}: {gap}" for gap in gallery_gaps(home.layout, model_id, [corpus])]
        uri = database_uri(home.layout, model_id)
        numbers[f"{name}/stems"] = count_rows(uri, STEM_TABLE, corpus)
    first = {"first_gap": gaps[0]} if gaps else {}
    return dg.AssetCheckResult(passed=not gaps, metadata={**numbers, "gaps": len(gaps), **first})


def _losses_are_finite(home: StemsHome, presets: Any) -> dg.AssetCheckResult:
    from ml.training.models import read_models
    from ml.training.run_folder import RECORD_NAME, read_record

    models, last = read_models(home.layout), {}
    for preset in presets:
        for line in read_record(models[preset].parent / RECORD_NAME):
            losses = {k: v for k, v in line["metrics"].items() if k.endswith("loss")}
            last |= {f"{preset}/{name}": value for name, value in losses.items()}
    shown = {name: value if math.isfinite(value) else str(value) for name, value in last.items()}
    is_finite = bool(last) and all(math.isfinite(value) for value in last.values())
    return dg.AssetCheckResult(passed=is_finite, metadata=readable(shown))


def _spread(vectors: Any) -> tuple[float, float]:
    """Measure the mean cosine over pairs of unit vectors (stem, dim), and their effective rank.

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


@corpus_check(asset=retrieval_scores)
def retrieval_is_above_chance(
    context: dg.AssetCheckExecutionContext, home: StemsHome
) -> dg.AssetCheckResult:
    """Recall@10 lies above chance by its interval (a warning)."""
    from ml.retrieval.evaluation.evaluate import EVALUATION
    from ml.scores.files import read_scores

    preset = home.settings().training.presets[0]
    rows = read_scores(home.layout, evaluation=EVALUATION, corpus=context.partition_key)
    chosen = [r for r in rows if r["model"] == preset and r["metric"] == "recall@10"]
    if not chosen:
        return _report(True, {"model": preset, "note": "every track was seen in training"})
    row = chosen[0]
    shown = {key: row[key] for key in _FIGURES if row[key] is not None}
    return _report(_lowest(row) > row["chance"], {"model": preset, **shown})


@corpus_check(asset=retrieval_scores)
def retrieval_is_not_worse_than_the_champion(
    context: dg.AssetCheckExecutionContext, home: StemsHome
) -> dg.AssetCheckResult:
    """Paired difference to the champion: its 95 % interval reaches 0 (a warning)."""
    from ml.metrics import LOWER_IS_BETTER
    from ml.retrieval.evaluation.compare import ComparisonConfig, NothingUnseenError, compare_models
    from ml.training.models import checkpoint_path, current_champion, find_model

    settings, corpus = home.settings(), context.partition_key
    layout, rule = settings.layout, settings.promotion
    candidate = find_model(layout, settings.training.presets[0], settings.tracking_uri)
    champion = current_champion(layout)
    if champion is None or champion.model_id == candidate.model_id:
        return _report(True, {"note": "there is no other champion"})
    config = ComparisonConfig(
        conditioning=rule.conditioning,
        resamples=settings.evaluation.bootstrap_resamples,
        permutations=1,
        seed=settings.evaluation.seed,
    )
    try:
        other = find_model(layout, str(checkpoint_path(layout, champion)), settings.tracking_uri)
        comparison = compare_models(layout, candidate, other, corpora=[corpus], config=config)
    except NothingUnseenError:
        return _report(True, {"note": "every track was seen in training"})
    except ArtifactError as error:
        return _report(False, {"note": str(error)})
    rows = [row for row in comparison.corpora[0].metrics if row.metric == rule.metric]
    if not rows:
        return _report(True, {"note": f"{rule.metric} applies to no query"})
    row = rows[0]
    worst = row.difference.low if rule.metric in LOWER_IS_BETTER else -row.difference.high
    numbers = {"value": row.a, "champion": row.b, "difference": row.difference.value}
    interval = {"low": row.difference.low, "high": row.difference.high}
    known = {key: value for key, value in interval.items() if value == value}
    return _report(not worst > 0, {"metric": rule.metric, **numbers, **known})


@corpus_check(asset=retrieval_scores)
def mix_is_heard(context: dg.AssetCheckExecutionContext, home: StemsHome) -> dg.AssetCheckResult:
    """Place within the label of the model that is served: its interval lies below 50 (a warning).

    Passes where it cannot be said: no two stems of one label, one track, only seen tracks.
    """
    model = _served(home, context.partition_key)
    heard, shown = _heard(home, context.partition_key, model)
    return _report(not heard.is_deaf, {"model": model, **shown}, f"{model}: {heard.text}")


@dg.asset_check(asset=champion)
def champion_hears_the_mix(home: StemsHome) -> dg.AssetCheckResult:
    """``mix_is_heard`` of the champion, on every corpus that it was scored on (a warning)."""
    from ml.retrieval.evaluation.evaluate import EVALUATION
    from ml.scores.files import scored_corpora

    said, shown, is_deaf = [], {}, False
    for corpus in scored_corpora(home.layout, EVALUATION):
        heard, row = _heard(home, corpus, _served(home, corpus))
        shown |= {f"{corpus}/{key}": value for key, value in row.items()}
        said, is_deaf = [*said, heard.text], is_deaf or heard.is_deaf
    return _report(not is_deaf, shown, "; ".join(said) or "it was not scored")


def _heard(home: StemsHome, corpus: str, model: str) -> tuple["MixHeard", dict[str, Any]]:
    """Tell whether a model hears the mix by its scores on a corpus, with the figures."""
    from ml.metrics import WITHIN_LABEL
    from ml.retrieval.evaluation.compare import heard_by_scores
    from ml.retrieval.evaluation.evaluate import EVALUATION
    from ml.scores.files import read_scores

    rows = read_scores(home.layout, evaluation=EVALUATION, corpus=corpus)
    row = next((r for r in rows if (r["model"], r["metric"]) == (model, WITHIN_LABEL)), None)
    shown = {key: row[key] for key in _FIGURES if row[key] is not None} if row else {}
    return heard_by_scores(corpus, row), shown


def _served(home: StemsHome, corpus: str) -> str:
    """Name the champion where this version of it was scored, else what would be promoted."""
    from ml.retrieval.evaluation.evaluate import EVALUATION
    from ml.scores.files import scored_models
    from ml.training.models import current_champion

    champion, scored = current_champion(home.layout), scored_models(home.layout, EVALUATION, corpus)
    names = {model_id: name for name, model_id in scored.items()}
    preset = home.settings().training.presets[0]
    return preset if champion is None else names.get(champion.model_id, preset)


@dg.asset_check(asset=beat_scores)
def beats_are_above_chance(home: StemsHome) -> dg.AssetCheckResult:
    """F-measure lies above chance by its interval on every corpus (a warning)."""
    rows = _beat_rows(home)
    shown = {
        f"{corpus}/{key}": row[key]
        for corpus, row in rows.items()
        for key in ("value", "low", "high", "chance")
        if row[key] is not None
    }
    passed = all(_lowest(row) > row["chance"] for row in rows.values())
    return _report(passed, shown)


@dg.asset_check(asset=beat_scores)
def beats_are_not_worse_than_the_champion(
    context: dg.AssetCheckExecutionContext, home: StemsHome
) -> dg.AssetCheckResult:
    """F-measure does not lie below the interval that the champion had (a warning)."""
    from ml.training.models import current_champion, read_models

    preset = home.settings().training.presets[0]
    model_id = read_json(read_models(home.layout)[preset] / "manifest.json")["model_id"]
    now: dict[str, Any] = {"model_id": model_id}
    for corpus, row in _beat_rows(home).items():
        now |= {f"{corpus}/value": row["value"], f"{corpus}/low": _lowest(row)}
    champion = current_champion(home.layout)
    earlier = earlier_numbers(context, beat_scores, "beats_are_not_worse_than_the_champion")
    wanted = champion.model_id if champion and champion.model_id != model_id else None
    before = next((x for x in earlier if wanted and x.get("model_id") == wanted), {})
    worse = [
        key
        for key, value in now.items()
        if key.endswith("/value") and value < before.get(key.replace("/value", "/low"), value)
    ]
    against = {f"champion/{k}": v for k, v in before.items() if k.endswith(("/value", "/low"))}
    return _report(not worse, {**now, **against})


def _beat_rows(home: StemsHome) -> dict[str, Mapping[str, Any]]:
    """Corpus → the F-measure of the model that would be promoted, where it was scored."""
    from ml.beats.experiment import EVALUATION
    from ml.scores.files import read_scores

    preset = home.settings().training.presets[0]
    rows: Sequence[Mapping[str, Any]] = read_scores(home.layout, evaluation=EVALUATION)
    chosen = (r for r in rows if r["model"] == preset and r["metric"] == BEAT_METRIC)
    return {row["corpus"]: row for row in chosen}


def _lowest(row: Mapping[str, Any]) -> float:
    return row["value"] if row["low"] is None else row["low"]


def _report(
    passed: bool, metadata: Mapping[str, Any], sentence: str | None = None
) -> dg.AssetCheckResult:
    severity = dg.AssetCheckSeverity.WARN
    return dg.AssetCheckResult(
        passed=passed, severity=severity, metadata=readable(metadata), description=sentence
    )
