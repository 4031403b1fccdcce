"""Embeddings of the ``predecessor`` protocol as files, in a folder beside the default ones.

``embeddings/<model_id>/<corpus>/predecessor/`` holds ``gallery.parquet`` (the target encoder's; in
phase 1 the encoder's), ``encoder-gallery.parquet`` (phase 2 only) and
``queries-<conditioning>.parquet``. Vectors are float32 of unit norm.
"""

from __future__ import annotations

from pathlib import Path

from ml.artifacts import ArtifactError, DataLayout, read_manifest
from ml.retrieval.embedding_files import GALLERY, Embeddings, queries_name, read_table

FORMAT_VERSION = 1
FOLDER = "predecessor"
ENCODER_GALLERY = "encoder-gallery.parquet"
BY_ENCODER = " (encoder gallery)"
"""Added to a model's name where the gallery is the encoder's, not the target encoder's."""
MADE_BY = "stems evaluate retrieval --protocol predecessor"


def read_predecessor(
    layout: DataLayout, model_id: str, corpus: str, conditioning: str = "fine"
) -> dict[str, Embeddings]:
    """Galleries and queries of a corpus by a model.

    Returns:
        What to add to the model's name → embeddings: ``""`` the target encoder's gallery (phase 1:
        the encoder's), ``BY_ENCODER`` the encoder's (phase 2 only).

    Raises:
        ArtifactError: they were not made (with this conditioning), or are damaged.
    """
    folder = predecessor_folder(layout, model_id, corpus)
    remedy = f"{MADE_BY} --corpus {corpus}"
    manifest = read_manifest(folder, format_version=FORMAT_VERSION, made_by=remedy)
    made = manifest["identity"]["conditionings"]
    if conditioning not in made:
        raise ArtifactError(
            f"{folder} holds queries conditioned {', '.join(made)}, not {conditioning}; make "
            f"them with: {remedy} --conditioning {conditioning}"
        )
    queries = read_table(folder / queries_name(conditioning))
    galleries = {"": GALLERY}
    if manifest["has_encoder_gallery"]:
        galleries[BY_ENCODER] = ENCODER_GALLERY
    return {
        suffix: Embeddings(manifest=manifest, gallery=read_table(folder / file), queries=queries)
        for suffix, file in galleries.items()
    }


def predecessor_folder(layout: DataLayout, model_id: str, corpus: str) -> Path:
    """Where the embeddings of this protocol lie."""
    return layout.embeddings(model_id, corpus) / FOLDER
