"""``stems embed``: embeddings of a corpus by all models, as Parquet and as searchable tables.

``stems index``: all that makes a folder of stems searchable by the model that answers queries.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ml.cli.options import (
    add_conditioning,
    add_device,
    add_models,
    count_text,
    examples,
    state_text,
)
from ml.processes import cores
from ml.settings import Settings, load_settings

if TYPE_CHECKING:
    from ml.models.stem_jepa import StemJepa
    from ml.retrieval.embeddings.model import EmbeddingModel

_BATCH_CHUNKS, _PRECISION = 64, "bf16"
_INDEX_LOCK = ".index.lock"


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the verbs ``index`` and ``embed``."""
    _add_index(verbs)
    parser = verbs.add_parser(
        "embed",
        description="Scan the corpus and encode its labels if need be, embed its stems and their "
        "leave-one-out mixes with every model in one pass over the audio, and publish the stems of "
        "trained models to their LanceDB tables. What is up to date is not done again.",
        epilog=examples("stems embed demo", "stems embed mine --models two-part"),
    )
    parser.add_argument("corpus", metavar="CORPUS", help="name of the corpus")
    add_conditioning(parser)
    add_options(parser)
    parser.add_argument("--no-publish", action="store_true", help="leave the tables as they are")
    parser.set_defaults(run=run)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that ``embed`` and ``evaluate`` share."""
    add_models(parser, "or spectrum, clap-audio (default: all of the home)")
    parser.add_argument(
        "--splits",
        nargs="+",
        action="extend",
        choices=("train", "valid", "test"),
        help="which tracks (default: test where the corpus has such tracks, else all)",
    )
    add_device(parser)
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), default=_PRECISION, help="of the arithmetic"
    )
    parser.add_argument(
        "--batch-chunks", type=int, default=_BATCH_CHUNKS, metavar="N", help="batch size"
    )


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Embed a corpus and publish it."""
    models = embed(args.corpus, args, settings, args.conditioning, has_champion=True)
    if not args.no_publish:
        _publish(models, args.corpus, settings)
    return 0


def _publish(models: Sequence[EmbeddingModel], corpus: str, settings: Settings) -> None:
    from ml.retrieval.embeddings.baselines import is_baseline
    from ml.retrieval.tables.publish import hear_gallery, publish_corpus

    searched = [model for model in models if not is_baseline(model)]
    hear_gallery(settings.layout, [model.model_id for model in searched], corpus, workers=cores())
    for model in searched:
        published = publish_corpus(settings.layout, model.model_id, corpus)
        print(f"{model.name} is published to {published.summary['uri']}")


def embed(
    name: str,
    args: argparse.Namespace,
    settings: Settings,
    conditioning: str | None,
    *,
    has_champion: bool = False,
    model: StemJepa | None = None,
) -> list[EmbeddingModel]:
    """Embed a corpus, building what that needs; returns the models.

    Args:
        name: of the corpus.
        args: of the verb, with ``add_options``.
        settings: of the home.
        conditioning: of the queries; None: no queries.
        has_champion: with the champion too, where it is none of the current models any more.
        model: by this one alone; None: by those of ``args``.
    """
    from ml.corpora.label_embeddings import build_label_embeddings, read_label_vectors
    from ml.corpora.registration import open_registered
    from ml.corpora.table import build_corpus_tracks
    from ml.labels.clap_files import clap_files_of
    from ml.labels.encoders import label_encoder_of
    from ml.processes import cluster
    from ml.retrieval.champion.champion import earlier_champion
    from ml.retrieval.embeddings.baselines import fitting_models, load_models
    from ml.retrieval.embeddings.build import embed_corpus

    if args.batch_chunks < 1:
        raise ValueError(f"--batch-chunks {args.batch_chunks}: expected at least 1")
    layout = settings.layout
    clap = clap_files_of(settings)
    models: list[EmbeddingModel] = (
        [model] if model else load_models(layout, args.models, clap, settings.tracking_uri)
    )
    build_corpus_tracks(name, open_registered(settings, name), layout, workers=cores())
    build_label_embeddings(name, layout, label_encoder_of(settings))
    models = fitting_models(models, layout, name)
    if has_champion and not args.models:
        models += earlier_champion(layout, models, name)
    with cluster(settings.compute.dask_scheduler) as executor:
        artifacts = embed_corpus(
            name,
            models,
            layout,
            read_label_vectors(layout, name),
            conditioning=conditioning,
            splits=args.splits,
            device=args.device,
            batch_chunks=args.batch_chunks,
            precision=args.precision,
            executor=executor,
            clap=clap,
        )
    for embedded, artifact in zip(models, artifacts, strict=True):
        made = artifact.summary
        print(
            f"{embedded.name}: {state_text(artifact)}: {made['gallery']} stems, "
            f"{made['queries']} queries ({made['silent_stems']} silent stems, "
            f"{made['silent_mixes']} silent mixes, {made['seen_tracks']} tracks seen in training)"
        )
    return models


def _add_index(verbs: argparse._SubParsersAction) -> None:
    from ml.corpora.corpus import KINDS, kinds_help

    parser = verbs.add_parser(
        "index",
        description="Add a folder of stems to config.yaml, scan it, embed its stems with the "
        "champion (or, before there is one, with the model starter, which comes with the package), "
        "and publish them to the table that queries search. What is up to date is not done again.",
        epilog=examples("stems index ~/multitracks", "stems index ~/musdb18hq --kind musdb18"),
    )
    parser.add_argument("root", type=Path, metavar="FOLDER", help="one folder a song in it")
    parser.add_argument("--name", help="of the corpus from now on (default: the folder's)")
    parser.add_argument("--kind", choices=KINDS, default="folder", help=kinds_help())
    add_device(parser)
    # All of a corpus can be found; queries of its own are for scores, which embed it again.
    parser.set_defaults(
        run=run_index, splits="every", precision=_PRECISION, batch_chunks=_BATCH_CHUNKS
    )


def run_index(args: argparse.Namespace, settings: Settings) -> int:
    """Make a folder searchable, and print a query to begin with."""
    from ml.corpora.corpus import open_corpus
    from ml.corpora.registration import register_corpus
    from ml.locks import lock
    from ml.retrieval.queries.example import example_query

    model = _answering_model(settings)
    open_corpus(args.kind, args.root)  # what is no corpus is refused before a home is begun
    with lock(settings.home / _INDEX_LOCK):
        name = register_corpus(settings, args.kind, args.root, args.name)
        settings = load_settings(settings.home)
        models = embed(name, args, settings, None, model=model)
        _print_problems(name, settings)
        _publish(models, name, settings)
        example = example_query(settings, name)
    asked = f"ask for the stem that a mix lacks:\n  {example.command}" if example else None
    print(asked or "ask with: stems query")
    return 0


def _answering_model(settings: Settings) -> StemJepa:
    """Load the model that answers queries.

    Raises:
        ArtifactError: there is none, or the labels of this home come from another label encoder.
    """
    from ml.labels.encoder import described_encoder
    from ml.labels.encoders import label_encoder_of
    from ml.models.stem_jepa import load_model
    from ml.retrieval.embeddings.model import check_label_encoder
    from ml.training.models import find_checkpoint

    model, encoder = load_model(find_checkpoint(settings.layout)), label_encoder_of(settings)
    check_label_encoder(model, described_encoder(encoder))
    return model


def _print_problems(name: str, settings: Settings) -> None:
    """Say what was left out of a corpus, and why."""
    from ml.corpora.corpus import notes_of
    from ml.corpora.registration import open_registered
    from ml.corpora.scan import count_problems
    from ml.corpora.table import read_corpus_tracks

    table = read_corpus_tracks(settings.layout, name)
    for problem, count, remedy in count_problems(table["problem"].drop_nulls()):
        print(f"{count_text(count, 'stem')}: {problem}; {remedy}", file=sys.stderr)
    for note in notes_of(open_registered(settings, name)):
        print(note, file=sys.stderr)
