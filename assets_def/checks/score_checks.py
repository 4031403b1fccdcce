"""Checks of scores; they warn and block nothing.

They look at the model that would be promoted, the first of ``training.presets``;
``mix_is_heard`` at the champion where it was scored. Whether a model takes
the champion's place is decided by ``ml.retrieval.champion.promotion``, not here.
https://docs.dagster.io/guides/test/asset-checks
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets_def.assets.beats import beat_scores
from assets_def.assets.retrieval import champion, retrieval_scores
from assets_def.resources import StemsHome
from assets_def.results import corpus_check, earlier_numbers, readable
from ml.artifacts import ArtifactError, read_json

if TYPE_CHECKING:
    from ml.retrieval.evaluation.compare import MixHeard

BEAT_METRIC = "f_measure"
_FIGURES = ("value", "low", "high", "chance", "n_queries", "n_gallery")


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
