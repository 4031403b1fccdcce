"""Several runs after one another, as one matter: what comes after the runs that have finished.

A *chain* is begun by a sensor or a schedule, with runs that carry its name and a stage as tags.
``next_stages`` asks for the runs of the next stage once those of the last have finished:

    prepare (a run a corpus) → train, if there is enough new → evaluate (a run a corpus) →
    hear (beat features, a run a corpus) → track (beat probes and scores) → conclude

A corpus whose run failed does not keep the others from going on, but beats are tracked only with
the features of all their corpora; without a finished training nothing follows. What comes next is
read from the runs alone, and every run has a key, so asking twice begins nothing twice. Chains that
nobody goes on with are forgotten after two weeks.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg

from assets_def.resources import StemsHome
from ml.artifacts import read_json
from ml.settings import Settings
from pipelines.evaluation import evaluable_corpora, evaluation_assets, trackable_corpora

CHAIN_TAG, STAGE_TAG = "stems/chain", "stems/stage"
STAGES = ("prepare", "train", "evaluate", "hear", "track", "conclude")
PREPARE, TRAIN, EVALUATE, HEAR, TRACK, CONCLUDE = STAGES
_FORGOTTEN_AFTER = timedelta(days=14)
_MOST_RUNS = 2000
_log = logging.getLogger(__name__)


def prepare_requests(
    settings: Settings, chain: str, fingerprints: Mapping[str, str]
) -> Iterator[dg.RunRequest]:
    """Scan corpora, and make shards of those that are trained on.

    Args:
        settings: of the home.
        chain: its name.
        fingerprints: corpus → what its files look like; a state of a corpus is asked for once.
    """
    for name, fingerprint in fingerprints.items():
        shards = ("stem_shards",) if name in settings.training.corpora else ()
        yield _request(
            f"{name}-{fingerprint}",
            chain,
            PREPARE,
            "prepare_corpus",
            ("corpus_tracks", "label_embeddings", *shards),
            corpus=name,
        )


def evaluate_requests(
    home: StemsHome, chain: str, corpora: Sequence[str]
) -> Iterator[dg.RunRequest]:
    """Embed and score corpora, as far as this can be done with each."""
    for name in corpora:
        try:
            assets = tuple(evaluation_assets(home, name))
        except ValueError as error:  # nothing usable in it, or nothing trained yet
            _log.warning("%s is not evaluated: %s", name, error)
            continue
        key = f"{chain}/{EVALUATE}/{name}"
        yield _request(key, chain, EVALUATE, "evaluate_retrieval", assets, corpus=name)


def begun_chains(instance: dg.DagsterInstance) -> dict[str, dict[str, list[dg.DagsterRun]]]:
    """Chain → stage → its newest runs, one a corpus."""
    recent = dg.RunsFilter(
        tags={STAGE_TAG: list(STAGES)}, created_after=datetime.now(UTC) - _FORGOTTEN_AFTER
    )
    chains: dict[str, dict[str, dict[str, dg.DagsterRun]]] = {}
    for run in instance.get_runs(recent, limit=_MOST_RUNS):  # the newest first
        stages = chains.setdefault(run.tags[CHAIN_TAG], {})
        corpus = run.tags.get("dagster/partition", "")
        stages.setdefault(run.tags[STAGE_TAG], {}).setdefault(corpus, run)
    return {
        chain: {stage: list(runs.values()) for stage, runs in stages.items()}
        for chain, stages in chains.items()
    }


def next_requests(
    home: StemsHome, chain: str, stages: Mapping[str, Sequence[dg.DagsterRun]]
) -> list[dg.RunRequest]:
    """What a chain asks for now; nothing while runs of its last stage have not finished.

    Args:
        home: what is asked for depends on.
        chain: its name.
        stages: of ``begun_chains``.
    """
    last = max(stages, key=STAGES.index)
    runs = stages[last]
    if last == CONCLUDE or not all(run.is_finished for run in runs):
        return []
    done = [run for run in runs if run.is_success]
    settings = home.settings()
    if last == EVALUATE and (found := trackable_corpora(settings)):
        return [_hear_request(chain, name) for name in found]
    finished = {run.tags.get("dagster/partition", "") for run in done}
    if last == HEAR and finished.issuperset(settings.beats.scored):
        return [_request(f"{chain}/{TRACK}", chain, TRACK, "evaluate_beats", TRACKED)]
    if last in (EVALUATE, HEAR, TRACK):  # also what failed: the champion's run says what is lacking
        return [_request(f"{chain}/{CONCLUDE}", chain, CONCLUDE, "write_report", REPORTED)]
    if not done:
        return []
    if last == PREPARE:
        if is_worth_training(settings, finished):
            return [_request(f"{chain}/{TRAIN}", chain, TRAIN, "train_model", TRAINED)]
        found = [name for name in evaluable_corpora(settings) if name in finished]
        return list(evaluate_requests(home, chain, found))
    return list(evaluate_requests(home, chain, evaluable_corpora(settings)))


TRAINED = ("contrastive_encoder", "stem_jepa")
TRACKED = ("beat_probe", "beat_scores")
REPORTED = ("champion", "report")


def _hear_request(chain: str, name: str) -> dg.RunRequest:
    key = f"{chain}/{HEAR}/{name}"
    return _request(key, chain, HEAR, "prepare_beats", ("beat_features",), corpus=name)


def is_worth_training(settings: Settings, changed: Iterable[str]) -> bool:
    """Whether changed corpora hold ``automation.min_new_hours`` that no model was trained on.

    The hours are of all of ``training.corpora``, so that small additions add up.
    """
    from ml.shards.inspect import new_training_hours
    from ml.training.models import read_models

    layout, wanted = settings.layout, settings.automation.min_new_hours
    if not set(settings.training.corpora).intersection(changed):
        return False
    models = read_models(layout) if layout.models_index.is_file() else {}
    current = models.get(settings.training.presets[0])
    seen = read_json(current / "manifest.json")["training_tracks"] if current else []
    try:
        hours = new_training_hours(layout, settings.training.corpora, seen)
    except ValueError as error:
        _log.warning("nothing is trained: %s", error)
        return False
    is_enough = hours > 0 and hours >= wanted
    _log.info("%.2f hours are new, %g are wanted for a training", hours, wanted)
    return is_enough


def _request(
    key: str,
    chain: str,
    stage: str,
    job: str,
    assets: Sequence[str],
    *,
    corpus: str | None = None,
) -> dg.RunRequest:
    return dg.RunRequest(
        run_key=key,
        job_name=job,
        partition_key=corpus,
        asset_selection=[dg.AssetKey(name) for name in assets],
        tags={CHAIN_TAG: chain, STAGE_TAG: stage},
    )
