"""Checks of models and of what is published of them; all block what would come later in the run.

https://docs.dagster.io/guides/test/asset-checks
"""

import math
from collections.abc import Iterator
from typing import Any

import dagster as dg

from assets_def.assets.retrieval import stem_embeddings
from assets_def.assets.training import contrastive_encoder, stem_jepa
from assets_def.resources import StemsHome
from assets_def.results import corpus_check, readable
from ml.artifacts import read_json

MAX_COSINE = 0.99
"""Mean cosine between stems above which a gallery has collapsed to a point."""
MIN_RANK = 2.0
"""Effective number of dimensions below which a gallery has collapsed."""


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

    corpus, gaps, numbers = context.partition_key, [], {}
    for name, model_id in _published_models(home):
        gaps += [f"{name}: {gap}" for gap in gallery_gaps(home.layout, model_id, [corpus])]
        uri = database_uri(home.layout, model_id)
        numbers[f"{name}/stems"] = count_rows(uri, STEM_TABLE, corpus)
    first = {"first_gap": gaps[0]} if gaps else {}
    return dg.AssetCheckResult(passed=not gaps, metadata={**numbers, "gaps": len(gaps), **first})


def _published_models(home: StemsHome) -> Iterator[tuple[str, str]]:
    """Yield name and model_id of what queries could use."""
    from ml.training.models import UNTRAINED, read_models

    for name, checkpoint in read_models(home.layout).items():
        if name != UNTRAINED:
            yield name, read_json(checkpoint / "manifest.json")["model_id"]


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
