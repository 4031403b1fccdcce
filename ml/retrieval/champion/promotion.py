"""Which model queries use: a candidate takes the champion's place if it is not worse, and listens.

The rule (section ``promotion`` of the settings). The candidate's gallery must be complete
(``ml.retrieval.tables.inspect``): queries never see half a table. On each corpus of the frozen
evaluation set candidate and champion answer the same queries, of tracks that *neither* has seen in
training, so that a model trained on the evaluation set gains nothing by it. The difference of one
metric has a 95 % interval (bootstrap over tracks); the candidate is refused where that interval
lies wholly on the worse side of ``tolerance``: with few queries intervals are wide, and much is
let pass. It is refused too where it does not hear the mix (``ml.retrieval.evaluation.compare``, on
tracks that it has not seen; ``promotion.requires_mix``); where that cannot be said the reason says
so. The first champion is compared with nobody, and promoted with a warning where it does not hear
the mix: without a champion no query is answered.

Then ``champion.json`` is replaced if it still names the champion that was compared with, else all
is judged again; and MLflow's alias follows (``ml.retrieval.champion.champion``). A promotion
that was killed between the two is finished by the next one. A rollback goes back to the champion
before, in the same order: the pointer, then the alias.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ml.artifacts import ArtifactError, DataLayout
from ml.metrics import LOWER_IS_BETTER
from ml.retrieval.champion.champion import (
    ChampionChangedError,
    mirror_champion,
    replace_champion,
    successor,
)
from ml.retrieval.embeddings.files import read_embedding_manifest
from ml.retrieval.evaluation.compare import (
    ComparisonConfig,
    CorpusComparison,
    MixHeard,
    NothingUnseenError,
    compare_models,
    mix_heard,
)
from ml.retrieval.tables.inspect import (
    gallery_gaps,
    publication_gaps,
    published_corpora,
    searched_corpora,
)
from ml.settings import Settings
from ml.training.models import (
    Champion,
    FoundModel,
    checkpoint_path,
    current_champion,
    embedded_corpora,
    find_model,
    keep_in_home,
    read_champion,
)

Outcome = Literal["promoted", "champion already", "refused"]

_TRIES = 5
_SAID: Mapping[Outcome, str] = {
    "promoted": "is promoted",
    "champion already": "is the champion already",
    "refused": "is not promoted",
}


@dataclass(frozen=True, kw_only=True)
class PromotionRule:
    """When a candidate may take the champion's place."""

    gallery: Sequence[str]
    """The corpora that must be published with it."""
    corpora: Sequence[str] = ()
    """The frozen evaluation set; empty: all of ``gallery`` that has queries unseen by both."""
    metric: str = "recall@10"
    """What is compared (``ml.metrics``)."""
    conditioning: str = "fine"
    """What queries are conditioned with."""
    tolerance: float = 1.0
    """Percentage points; the interval of the difference may not lie wholly beyond them."""
    requires_mix: bool = True
    """Whether it must hear the mix."""
    resamples: int = 1000
    """Draws of the bootstrap."""
    seed: int = 0
    """Of the draws."""


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """What became of a candidate, and why."""

    candidate: FoundModel
    outcome: Outcome
    reason: str
    """One sentence for people."""
    champion: Champion | None
    """Who is champion now (in a dry run: still)."""
    comparisons: Sequence[CorpusComparison] = ()
    """Candidate (A) and champion (B), where they were compared."""
    heard: Sequence[MixHeard] = ()
    """Whether the candidate hears the mix, where that was asked."""


@dataclass(frozen=True, kw_only=True)
class Rollback:
    """What a rollback did."""

    withdrawn: Champion
    """Who was champion."""
    champion: Champion
    """Who is champion now."""
    gaps: Sequence[str]
    """What queries do not find now that they should."""


def promotion_rule(settings: Settings) -> PromotionRule:
    """Take the rule from the settings."""
    chosen, evaluation = settings.promotion, settings.evaluation
    return PromotionRule(
        gallery=searched_corpora(settings),
        corpora=chosen.corpora,
        metric=chosen.metric,
        conditioning=chosen.conditioning,
        tolerance=chosen.tolerance,
        requires_mix=chosen.requires_mix,
        resamples=evaluation.bootstrap_resamples,
        seed=evaluation.seed,
    )


def promote(
    settings: Settings,
    model: str | None = None,
    *,
    is_forced: bool = False,
    is_dry_run: bool = False,
) -> Promotion:
    """Make a model the champion if the rule allows it, and let MLflow's alias follow.

    Args:
        settings: of the home, with the rule.
        model: the candidate, as ``stems compare`` takes it; default: the first of
            ``training.presets``.
        is_forced: compare with nobody, whether it hears the mix or not; the gallery must be
            complete all the same.
        is_dry_run: judge only; nothing is written.

    Raises:
        ArtifactError: there is no such model, or ``champion.json`` is damaged.
        ChampionChangedError: other processes replaced the champion again and again.
    """
    layout, rule = settings.layout, promotion_rule(settings)
    name = model or settings.training.presets[0]
    candidate = find_model(layout, name, settings.tracking_uri)
    for _ in range(_TRIES):
        before = current_champion(layout)
        judged = judge(settings, candidate, before, rule, is_forced=is_forced)
        if is_dry_run:
            return judged
        if judged.outcome == "promoted":
            try:
                _replace(layout, before, candidate)
            except ChampionChangedError:
                continue  # another promoter was faster: judge against its champion
        if before is not None or judged.outcome == "promoted":
            mirror_champion(layout, settings.tracking_uri, settings.promotion.registered_model)
        return replace(judged, champion=current_champion(layout))
    raise ChampionChangedError(
        f"{layout.lancedb} has a new champion each of {_TRIES} times that {candidate.name} was "
        f"judged; see who else promotes models, then start again"
    )


def judge(
    settings: Settings,
    candidate: FoundModel,
    champion: Champion | None,
    rule: PromotionRule,
    *,
    is_forced: bool = False,
) -> Promotion:
    """Say what would become of a candidate; writes nothing."""
    layout, model_id = settings.layout, candidate.model_id
    gaps = {corpus: gallery_gaps(layout, model_id, [corpus]) for corpus in rule.gallery}
    said_gaps = [gap for own in gaps.values() for gap in own]
    if not rule.gallery:
        said_gaps = ["no corpus was scanned yet"]
    lacking = f"gallery incomplete: {'; '.join(said_gaps)}" if said_gaps else ""
    comparisons: Sequence[CorpusComparison] = ()
    heard: Sequence[MixHeard] = ()
    if champion is not None and champion.model_id == candidate.model_id:
        outcome, why = "champion already", lacking
    elif lacking:
        first = [
            f"stems embed {corpus} --models {candidate.name}" for corpus in gaps if gaps[corpus]
        ]
        outcome, why = "refused", f"{lacking}; do first: {'; '.join(first) or 'stems embed CORPUS'}"
    elif champion is None:
        heard = _first_heard(settings.layout, candidate, rule)
        warned = [f"warning: {one.text}" if one.is_deaf else one.text for one in heard]
        outcome, why = "promoted", "; ".join(["there was no champion before", *warned])
    elif is_forced:
        outcome, why = "promoted", "it was forced, nothing was compared"
    elif candidate.model_id in champion.withdrawn:
        outcome, why = "refused", "it was rolled back; promote it with --force"
    else:
        outcome, why, comparisons, heard = _compare(settings, candidate, champion, rule)
    said = f"{candidate.name} ({candidate.model_id}) {_SAID[outcome]}"
    return Promotion(
        candidate=candidate,
        outcome=outcome,
        reason=f"{said}: {why}" if why else said,
        champion=champion,
        comparisons=comparisons,
        heard=heard,
    )


def roll_back(settings: Settings) -> Rollback:
    """Make the champion before the champion again; the present one counts as withdrawn.

    Raises:
        ArtifactError: there is none before, its tables or its checkpoint are gone, or not whole.
        ChampionChangedError: another process replaced the champion meanwhile.
    """
    layout = settings.layout
    before = read_champion(layout)
    if before.previous is None:
        raise ArtifactError(
            f"{before.model_id} is the first champion, there is none before it; promote another "
            f"model with: stems promote MODEL"
        )
    _require_whole(layout, before.previous)
    earlier = find_model(layout, before.previous, settings.tracking_uri)
    if earlier.checkpoint is None:
        raise ArtifactError(
            f"the checkpoint of {before.previous}, the champion before, is not in {layout.runs} "
            f"any more; promote another model with: stems promote MODEL"
        )
    after = successor(layout, before, earlier.model_id, earlier.checkpoint)
    after = replace(after, withdrawn=(*after.withdrawn, before.model_id))
    replace_champion(layout, before, after)
    mirror_champion(layout, settings.tracking_uri, settings.promotion.registered_model)
    gaps = gallery_gaps(layout, after.model_id, searched_corpora(settings))
    return Rollback(withdrawn=before, champion=read_champion(layout), gaps=gaps)


def _replace(layout: DataLayout, before: Champion | None, candidate: FoundModel) -> None:
    """Make the candidate the champion after ``before``."""
    if candidate.checkpoint is None:
        raise ArtifactError(
            f"{candidate.name} has no checkpoint here, queries could not use it; name a trained "
            f"model"
        )
    checkpoint = keep_in_home(layout, candidate.checkpoint)
    replace_champion(layout, before, successor(layout, before, candidate.model_id, checkpoint))


def _compare(
    settings: Settings, candidate: FoundModel, champion: Champion, rule: PromotionRule
) -> tuple[Outcome, str, Sequence[CorpusComparison], Sequence[MixHeard]]:
    """Compare with the champion: the outcome, why, the comparisons, and if the mix is heard."""
    try:
        comparisons = _comparisons(settings, candidate, champion, rule)
        heard = _heard(settings.layout, candidate, [one.corpus for one in comparisons], rule)
    except ArtifactError as error:
        return "refused", f"it cannot be compared with the champion: {error}", (), ()
    problems = [problem for one in comparisons if (problem := _worse(one, rule))]
    problems += [
        f"{one.text}; promote it all the same with --force" for one in heard if one.is_deaf
    ]
    facts = [_difference_text(one, rule) for one in comparisons] + [one.text for one in heard]
    return "refused" if problems else "promoted", "; ".join(problems or facts), comparisons, heard


def _first_heard(
    layout: DataLayout, candidate: FoundModel, rule: PromotionRule
) -> Sequence[MixHeard]:
    """Tell whether a first champion hears the mix, where it has embedded the evaluation set."""
    embedded = embedded_corpora(layout, candidate, rule.conditioning)
    corpora = [name for name in rule.corpora or rule.gallery if name in embedded]
    return _heard(layout, candidate, corpora, rule)


def _heard(
    layout: DataLayout, candidate: FoundModel, corpora: Sequence[str], rule: PromotionRule
) -> Sequence[MixHeard]:
    """Tell whether the candidate hears the mix; nothing where the rule does not ask."""
    return mix_heard(layout, candidate, corpora, _config(rule)) if rule.requires_mix else ()


def _config(rule: PromotionRule) -> ComparisonConfig:
    return ComparisonConfig(
        conditioning=rule.conditioning, resamples=rule.resamples, permutations=1, seed=rule.seed
    )


def _comparisons(
    settings: Settings, candidate: FoundModel, champion: Champion, rule: PromotionRule
) -> list[CorpusComparison]:
    """Compare candidate and champion on each corpus of the evaluation set.

    Raises:
        ArtifactError: nothing is left to compare on, or the champion's checkpoint is gone.
    """
    layout = settings.layout
    checkpoint = checkpoint_path(layout, champion)
    if not checkpoint.is_dir():
        raise ArtifactError(
            f"the champion's checkpoint {checkpoint} is gone, and with it what it was trained on; "
            f"promote without comparing: stems promote --force"
        )
    current = find_model(layout, str(checkpoint), settings.tracking_uri)
    both = embedded_corpora(layout, current, rule.conditioning)
    comparisons: list[CorpusComparison] = []
    for corpus in rule.corpora or [name for name in rule.gallery if name in both]:
        _require_same_state(layout, corpus, candidate, current)
        try:
            made = compare_models(
                layout, candidate, current, corpora=[corpus], config=_config(rule)
            )
            _require_metric(made.corpora[0], rule.metric)
        except NothingUnseenError:
            if rule.corpora:
                raise
            continue
        comparisons += made.corpora
    if not comparisons:
        raise ArtifactError(
            f"no corpus has queries that neither has seen in training and that {rule.metric} "
            f"applies to (embedded by both: {', '.join(both) or 'none'}); embed one, or promote "
            f"with --force"
        )
    return comparisons


def _require_same_state(
    layout: DataLayout, corpus: str, candidate: FoundModel, champion: FoundModel
) -> None:
    """Require that both have embedded the same recordings, not only stems of the same names."""
    states = [
        read_embedding_manifest(layout, model.model_id, corpus)["identity"]["corpus_tracks"]
        for model in (candidate, champion)
    ]
    if states[0] != states[1]:
        raise ArtifactError(
            f"{corpus} has changed between the embeddings of {candidate.model_id} and those of "
            f"the champion; make both again with: stems embed {corpus}"
        )


def _require_metric(comparison: CorpusComparison, metric: str) -> None:
    """Require that the metric applies to a query: places within labels need labels in common."""
    if all(row.metric != metric for row in comparison.metrics):
        raise NothingUnseenError(
            f"{metric} applies to no query of {comparison.corpus}: no two stems have one label; "
            f"choose another promotion.metric"
        )


def _worse(comparison: CorpusComparison, rule: PromotionRule) -> str | None:
    """Say why a comparison speaks against the candidate, if it does."""
    row = next(row for row in comparison.metrics if row.metric == rule.metric)
    if math.isnan(row.difference.low):
        return f"{comparison.corpus} has queries of one track only, which decide nothing"
    is_lower_better = rule.metric in LOWER_IS_BETTER
    best = -row.difference.low if is_lower_better else row.difference.high
    return f"worse: {_difference_text(comparison, rule)}" if best < -rule.tolerance else None


def _difference_text(comparison: CorpusComparison, rule: PromotionRule) -> str:
    row = next(row for row in comparison.metrics if row.metric == rule.metric)
    interval = f"{row.difference.low:+.1f}…{row.difference.high:+.1f}"
    return (
        f"{row.metric} on {comparison.corpus} is {row.a:.1f}, the champion's {row.b:.1f} "
        f"(difference {row.difference.value:+.1f}, 95 % interval {interval}, "
        f"{row.n_queries} queries, tolerance {rule.tolerance:g})"
    )


def _require_whole(layout: DataLayout, model_id: str) -> None:
    problems = publication_gaps(layout, model_id)
    if not published_corpora(layout, model_id):
        problems = ["nothing is published with it"]
    if problems:
        raise ArtifactError(
            f"{model_id}, the champion before, cannot answer queries: {'; '.join(problems)}; "
            f"promote another model with: stems promote MODEL"
        )
