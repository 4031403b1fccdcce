"""What can be run: a *job* a stage, a *step* of one job in a terminal, and of which corpora.

Jobs are verbs; assets are nouns. ``ASSETS`` is the only list of which asset belongs to which stage;
steps, the nightly schedule and tests read it. Jobs over partitioned assets take one corpus a run
(no range runs: they would give every corpus the same data version). A person asks for steps
(``pipelines.demo``, ``pipelines.run``) and sees them to their end; what follows without anybody
asking is in ``pipelines.automation``. Nothing is asked for that must fail.

https://docs.dagster.io/guides/build/jobs/asset-jobs
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import dagster as dg

from assets_def.resources import StemsHome
from ml.artifacts import MANIFEST_NAME
from ml.settings import Settings

ASSETS = {
    "prepare_corpus": ("corpus_tracks", "label_embeddings", "stem_shards"),
    "train_model": ("contrastive_encoder", "stem_jepa"),
    "embed_corpus": ("stem_embeddings",),
    "evaluate_retrieval": ("stem_embeddings", "retrieval_scores", "instrument_scores"),
    "prepare_beats": ("beat_features",),
    "evaluate_beats": ("beat_probe", "beat_scores"),
    "write_report": ("champion", "report"),
    "observe_corpora": ("corpus_files",),
}
"""Job → its assets, in the order in which they are made."""
DESCRIPTIONS = {
    "prepare_corpus": "Scan a corpus, encode its labels and make its training shards. For a corpus "
    "that is only evaluated, leave stem_shards out.",
    "train_model": "Phase 1, then phase 2 for each preset, on the shards of training.corpora. "
    "Unfinished runs are resumed, finished ones reused.",
    "embed_corpus": "Embed a corpus with every current model and publish it for queries.",
    "evaluate_retrieval": "Embed a corpus with every current model, score retrieval, also by "
    "instrument.",
    "prepare_beats": "Features of a corpus with beats by every current model, for beat probes.",
    "evaluate_beats": "Train beat probes on the features of beats.corpora and score them "
    "(Table II).",
    "write_report": "Let the first preset be champion if it is not worse, write the HTML report.",
    "observe_corpora": "Look at the files of every corpus; it reads no audio and makes nothing.",
}
all_jobs = {
    name: dg.define_asset_job(name, selection=list(assets), description=DESCRIPTIONS[name])
    for name, assets in ASSETS.items()
}


def evaluable_corpora(settings: Settings) -> list[str]:
    """List the corpora with stems that were scanned and whose labels were encoded."""
    layout = settings.layout
    return [
        name
        for name in settings.corpora_with_stems
        if all((f / MANIFEST_NAME).is_file() for f in (layout.tracks(name), layout.labels(name)))
    ]


def evaluation_assets(home: StemsHome, name: str) -> Iterator[str]:
    """Yield what can be made of a corpus: instruments need tracks that nobody was trained on."""
    yield from ("stem_embeddings", "retrieval_scores")
    if has_unseen_tracks(home, name):
        yield "instrument_scores"


def has_unseen_tracks(home: StemsHome, name: str) -> bool:
    """Tell whether some track that would be evaluated was not trained on by any current model."""
    from ml.artifacts import read_json
    from ml.retrieval.embeddings.source import open_source, seen_tracks
    from ml.training.models import read_models

    source = open_source(name, home.layout, None)
    unseen = {track.track_id for track in source.tracks}
    for checkpoint in read_models(home.layout).values():
        trained_on = read_json(checkpoint / "manifest.json")["training_tracks"]
        unseen -= seen_tracks(source.table, trained_on, home.layout)
    return bool(unseen)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One Dagster run."""

    job: str
    """Name of the job."""
    assets: tuple[str, ...] = ()
    """Which of its assets; empty: all."""
    partition: str | None = None
    """The corpus; None for assets that are not partitioned."""
    needs: tuple[str, ...] = ()
    """Names of earlier steps without which this one makes no sense."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "assets", self.assets or ASSETS[self.job])

    @property
    def name(self) -> str:
        """What messages call it, and ``needs`` of other steps."""
        return self.job if self.partition is None else f"{self.job} {self.partition}"


def prepare_steps(names: Iterable[str], *, trained_on: Iterable[str]) -> list[Step]:
    """Scan corpora and encode their labels; make shards of those that are trained on."""
    shards = set(trained_on)
    prepared = ASSETS["prepare_corpus"]
    scanned = tuple(asset for asset in prepared if asset != "stem_shards")
    return [
        Step(job="prepare_corpus", assets=prepared if name in shards else scanned, partition=name)
        for name in names
    ]


def train_step(trained_on: Iterable[str]) -> Step:
    """Train both phases, on corpora that are prepared before."""
    return Step(job="train_model", needs=tuple(f"prepare_corpus {name}" for name in trained_on))


def evaluate_step(name: str, *, needs: tuple[str, ...] = (), assets: tuple[str, ...] = ()) -> Step:
    """Embed a corpus that was prepared, score retrieval on it, and by instrument."""
    return Step(job="evaluate_retrieval", assets=assets, partition=name, needs=needs)


def beat_steps(settings: Settings, *, needs: tuple[str, ...]) -> list[Step]:
    """Make features of the corpora of ``beats``, train probes on them, and score; none without."""
    if not settings.beats.corpora:
        return []
    features = [
        Step(job="prepare_beats", partition=name, needs=needs) for name in settings.beats.scored
    ]
    return [*features, Step(job="evaluate_beats", needs=tuple(step.name for step in features))]
