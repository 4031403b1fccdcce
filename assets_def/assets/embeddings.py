"""What the models make of each corpus, where queries find it, and which model answers them."""

from typing import Any

import dagster as dg

from assets_def.assets.corpus import corpus_tracks, label_embeddings
from assets_def.assets.training import contrastive_encoder, stem_jepa
from assets_def.partitions import corpora
from assets_def.resources import StemsHome
from assets_def.results import materialized, together
from ml.artifacts import Artifact, ArtifactError, fingerprint
from ml.retrieval import embedding_files, store


@dg.asset(
    group_name="embeddings",
    kinds={"pytorch", "parquet", "lancedb"},
    owners=["team:music-ml"],
    partitions_def=corpora,
    deps=[corpus_tracks, label_embeddings, contrastive_encoder, stem_jepa],
    pool="gpu",
    code_version=str(embedding_files.FORMAT_VERSION),
)
def stem_embeddings(context: dg.AssetExecutionContext, home: StemsHome) -> dg.MaterializeResult:
    """Gallery, chunks and queries by every current model, in one pass; published to LanceDB."""
    from ml.corpora.labels import read_label_vectors
    from ml.device import choose_device
    from ml.retrieval.baselines import is_baseline, load_models
    from ml.retrieval.embed import embed_corpus

    name, settings = context.partition_key, home.settings()
    layout = settings.layout
    models = load_models(layout, clap=settings.clap_files)
    vectors = read_label_vectors(layout, name)
    made = embed_corpus(name, models, layout, vectors, device=str(choose_device("auto")))
    artifacts = {model.name: artifact for model, artifact in zip(models, made, strict=True)}
    published = {
        model.name: store.publish_corpus(layout, model.model_id, name)
        for model in models
        if not is_baseline(model)
    }
    first = made[0]
    metadata = {f"{name}/uri": artifact.summary["uri"] for name, artifact in published.items()}
    counts = {key: first.summary[key] for key in ("tracks", "gallery", "queries", "chunks")}
    return materialized(
        together(layout.home / "embeddings", artifacts, models=len(models), **counts),
        rows=first.summary["gallery"],
        table=first.path / embedding_files.GALLERY,
        metadata=metadata,
    )


@dg.asset(
    group_name="embeddings",
    kinds={"lancedb"},
    owners=["team:music-ml"],
    deps=[
        stem_jepa,
        dg.AssetDep(stem_embeddings, partition_mapping=dg.AllPartitionMapping()),
    ],
    code_version=str(store.FORMAT_VERSION),
)
def champion(home: StemsHome) -> dg.MaterializeResult:
    """Which model queries use: the first of ``training.presets``, once its stems are published."""
    from ml.retrieval.champion import champion_path, read_champion, write_champion
    from ml.training.model_index import read_models

    settings = home.settings()
    layout, preset = settings.layout, settings.training.presets[0]
    checkpoint = read_models(layout)[preset]
    before = read_champion(layout) if champion_path(layout).is_file() else None
    model_id, rows = _published(home, preset)
    now = write_champion(layout, model_id, checkpoint)
    artifact = Artifact(
        path=champion_path(layout),
        fingerprint=fingerprint({"model_id": model_id}),
        reused=before == now,
        summary={"model": preset, "model_id": model_id, "previous": now.previous, **rows},
    )
    uri = {"database": store.database_uri(layout, model_id)}
    return materialized(artifact, rows=sum(rows.values()), metadata=uri)


def _published(home: StemsHome, preset: str) -> tuple[str, dict[str, Any]]:
    """The current model of a preset, and how many stems of each corpus its table holds.

    Raises:
        ArtifactError: none were published.
    """
    from ml.artifacts import read_json
    from ml.training.model_index import read_models

    layout = home.layout
    model_id = read_json(read_models(layout)[preset] / "manifest.json")["model_id"]
    records = (layout.lancedb / model_id / "published").glob("*/manifest.json")
    rows = {
        f"{record.parent.name}/stems": read_json(record)["summary"][store.STEM_TABLE]
        for record in sorted(records)
    }
    if not rows:
        raise ArtifactError(
            f"{store.database_uri(layout, model_id)} holds no stems of the model {preset} "
            f"({model_id}); materialize stem_embeddings of a corpus first"
        )
    return model_id, rows
