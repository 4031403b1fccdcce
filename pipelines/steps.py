"""The steps that the demo and single corpora are made of, and running them in a home."""

from collections.abc import Iterable, Sequence

from assets_def.resources import StemsHome
from ml.settings import Settings
from pipelines.build import build_definitions
from pipelines.execute import Outcome, Step, execute_steps
from pipelines.home import open_instance

TRAIN = "train_model"
"""Name of the training step."""


def prepare_step(name: str, *, has_shards: bool) -> Step:
    """Scan a corpus and encode its labels; make shards of it if it is trained on."""
    shards = ("stem_shards",) if has_shards else ()
    assets = ("corpus_tracks", "label_embeddings", *shards)
    return Step(job="prepare_corpus", assets=assets, partition=name)


def train_step(trained_on: Iterable[str]) -> Step:
    """Both phases, on corpora that are prepared before."""
    needs = tuple(f"prepare_corpus {name}" for name in trained_on)
    return Step(job=TRAIN, assets=("contrastive_encoder", "stem_jepa"), needs=needs)


def evaluate_step(name: str, *, needs: Iterable[str] = (), is_unseen: bool = True) -> Step:
    """Embed a corpus that was prepared, score retrieval on it, and by instrument.

    Instruments need queries of tracks that nobody was trained on.
    """
    assets = ("stem_embeddings", "retrieval_scores", *(("instrument_scores",) * is_unseen))
    return Step(job="evaluate_retrieval", assets=assets, partition=name, needs=tuple(needs))


def beat_steps(settings: Settings, *, needs: Iterable[str] = ()) -> list[Step]:
    """Features of the corpora of ``beats``, probes on them, and their scores; none without any."""
    if not settings.beats.corpora:
        return []
    features = [
        Step(job="prepare_beats", assets=("beat_features",), partition=name, needs=tuple(needs))
        for name in settings.beats.scored
    ]
    made = tuple(step.name for step in features)
    return [*features, Step(job="evaluate_beats", assets=("beat_probe", "beat_scores"), needs=made)]


def report_step(*, needs: Iterable[str] = ()) -> Step:
    """Point queries at the champion, and write the report."""
    return Step(job="write_report", assets=("champion", "report"), needs=tuple(needs))


def execute_in_home(home: StemsHome, steps: Sequence[Step]) -> list[Outcome]:
    """Run steps in the Dagster instance of a home, which must have been installed.

    Raises:
        ml.settings.SettingsError: settings are wrong.
    """
    definitions = build_definitions(home=home)
    with open_instance(home.settings()) as instance:
        return execute_steps(definitions, instance, steps)
