"""``stems query``: which stems fit with a mix?"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from ml.settings import Settings

if TYPE_CHECKING:
    from ml.models.label_encoders import LabelEncoder
    from ml.models.stem_jepa import StemJepa
    from ml.retrieval.query import Candidate


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "query",
        help="find the stems that fit with a mix",
        description="Rank the stems of the table by how well they fit with a mix.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "mix", nargs="+", type=Path, metavar="MIX", help="audio file; several are summed"
    )
    parser.add_argument("--instrument", help="what the stem should play (default: any music)")
    parser.add_argument("-k", type=int, default=10, help="how many stems")
    parser.add_argument(
        "--model", metavar="NAME|PATH", help="model or checkpoint folder (default: the champion)"
    )
    parser.add_argument("--corpus", metavar="NAME", help="only stems of this corpus")
    parser.add_argument("--where", help="only stems for which this holds: \"category = 'guitar'\"")
    parser.add_argument("--exclude-tracks", nargs="+", default=[], metavar="ID")
    parser.add_argument("--per-track", type=int, metavar="N", help="at most N stems of a track")
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Search and print."""
    from ml.models.stem_jepa import load_model
    from ml.retrieval.champion import find_checkpoint
    from ml.retrieval.query import StemRetriever
    from ml.retrieval.store import database_uri

    model = load_model(find_checkpoint(settings.layout, args.model))
    encoder = _label_encoder(model, settings)
    retriever = StemRetriever(model, database_uri(settings.layout, model.model_id), encoder)
    found = retriever.query(
        list(args.mix),
        args.instrument,
        k=args.k,
        where=_where(args.corpus, args.where),
        exclude_tracks=args.exclude_tracks,
        per_track=args.per_track,
    )
    if encoder is not None and args.instrument:
        _explain(args.instrument, model, encoder, settings)
    if args.json:
        print(json.dumps([asdict(candidate) for candidate in found], indent=1))
    else:
        _print(found)
    return 0


def _label_encoder(model: StemJepa, settings: Settings) -> LabelEncoder | None:
    """The encoder that the model was trained with, from where the settings say it lies."""
    from ml.corpora.labels import label_encoder_of

    if model.condition_dim is None or not model.label_encoder:
        return None
    return label_encoder_of(settings, model.label_encoder["name"])


def _explain(instrument: str, model: StemJepa, encoder: LabelEncoder, settings: Settings) -> None:
    """Say on stderr which labels of the training an instrument, unknown to it, is close to.

    By meaning, and by spelling: a text encoder may take a slip of the pen for another word.
    """
    from ml.retrieval.presence import text_vectors
    from ml.retrieval.query import nearest_labels

    labels = model.manifest.get("training_labels") or []
    if not labels or instrument in labels:
        return
    known = text_vectors(settings.layout, labels, encoder)
    nearest = nearest_labels(encoder.encode([instrument])[0], known)
    shown = ", ".join(f"{label} {cosine:.2f}" for label, cosine in nearest)
    spelt = get_close_matches(instrument.lower(), labels, n=1)
    meant = f'; did you mean "{spelt[0]}"?' if spelt and spelt[0] != nearest[0][0] else ""
    print(f'"{instrument}" is not a training label; it acts like: {shown}{meant}', file=sys.stderr)


def _where(corpus: str | None, where: str | None) -> str | None:
    from ml.retrieval.store import sql_text

    parts = [f"corpus = {sql_text(corpus)}"] if corpus else []
    parts += [f"({where})"] if where else []
    return " AND ".join(parts) or None


def _print(found: Sequence[Candidate]) -> None:
    if not found:
        print("no stem passes the filters")
        return
    rows = [("rank", "score", "label", "corpus", "stem", "fits best at")]
    for c in found:
        start = "" if c.best_start_s is None else f"{c.best_start_s:.1f} s"
        rows.append((str(c.rank), f"{c.score:.3f}", c.label, c.corpus, c.stem_id, start))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip())
