"""``stems embed``: embeddings of a corpus by all models, as Parquet and as searchable tables."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ml.cli.options import add_conditioning, add_device, cores, examples, state_text
from ml.settings import Settings

if TYPE_CHECKING:
    from ml.retrieval.embeddings.model import EmbeddingModel


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the verb."""
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
    parser.add_argument(
        "--models", "--model", nargs="+", metavar="NAME", help="which (default: all)"
    )
    parser.add_argument(
        "--splits",
        nargs="+",
        choices=("train", "valid", "test"),
        help="which tracks (default: test where the corpus has such tracks, else all)",
    )
    add_device(parser)
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), default="bf16", help="of the arithmetic"
    )
    parser.add_argument("--batch-chunks", type=int, default=64, metavar="N", help="batch size")


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Embed a corpus and publish it."""
    from ml.retrieval.embeddings.baselines import is_baseline
    from ml.retrieval.tables.publish import publish_corpus

    for model in embed(args, settings, args.conditioning, has_champion=True):
        if not (args.no_publish or is_baseline(model)):
            published = publish_corpus(settings.layout, model.model_id, args.corpus)
            print(f"{model.name} is published to {published.summary['uri']}")
    return 0


def embed(
    args: argparse.Namespace, settings: Settings, conditioning: str, *, has_champion: bool = False
) -> list[EmbeddingModel]:
    """Embed ``args.corpus``, building what that needs; returns the models.

    Args:
        args: of the verb, with ``add_options``.
        settings: of the home.
        conditioning: of the queries.
        has_champion: with the champion too, where it is none of the current models any more.
    """
    from ml.corpora.corpus import open_corpus
    from ml.corpora.label_embeddings import build_label_embeddings, read_label_vectors
    from ml.corpora.table import build_corpus_tracks
    from ml.labels.clap_files import clap_files_of
    from ml.labels.encoders import label_encoder_of
    from ml.processes import cluster
    from ml.retrieval.champion.champion import earlier_champion
    from ml.retrieval.embeddings.baselines import load_models
    from ml.retrieval.embeddings.build import embed_corpus

    if args.batch_chunks < 1:
        raise ValueError(f"--batch-chunks {args.batch_chunks}: expected at least 1")
    name, layout = args.corpus, settings.layout
    chosen = settings.corpus(name)
    models = load_models(layout, args.models, clap_files_of(settings))
    corpus = open_corpus(chosen.kind, chosen.root, **chosen.options)
    build_corpus_tracks(name, corpus, layout, workers=cores())
    build_label_embeddings(name, layout, label_encoder_of(settings))
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
            clap=clap_files_of(settings),
        )
    for model, artifact in zip(models, artifacts, strict=True):
        made = artifact.summary
        print(
            f"{model.name}: {state_text(artifact)}: {made['gallery']} stems, "
            f"{made['queries']} queries ({made['silent_stems']} silent stems, "
            f"{made['silent_mixes']} silent mixes, {made['seen_tracks']} tracks seen in training)"
        )
    return models
