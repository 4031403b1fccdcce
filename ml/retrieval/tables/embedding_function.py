"""Our tables searched by LanceDB alone: an embedding function that they name in their schema.

After this module is imported (which registers it), ``table.search`` takes audio::

    import lancedb
    import ml.retrieval.tables.embedding_function

    stems = lancedb.connect(database).open_table("stem_embeddings")  # stems table path
    stems.search(("mix.wav", "acoustic guitar")).limit(10).to_pandas()
    stems.search("mix.wav")  # any music that fits

A query is what LanceDB passes on: one value, so that mix and instrument come as a pair. The answer
is by ear alone: what labels say, and recordings that are variants of one another, are matters of
``ml.retrieval.queries``. The model is found by the id in the table, in ``STEMS_HOME`` (else
``./data``); elsewhere ``lancedb.embeddings.get_registry().set_var("stem_model", …)`` names its
folder, or its name on a hub.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from lancedb.embeddings import EmbeddingFunction, EmbeddingFunctionConfig, get_registry, register
from pydantic import PrivateAttr

from ml.artifacts import ArtifactError
from ml.settings import existing_home, load_settings
from ml.tracks import MUSIC
from ml.training.models import find_checkpoint

if TYPE_CHECKING:
    from ml.models.stem_jepa import StemJepa

NAME, VARIABLE = "stem-jepa", "stem_model"


@register(NAME)
class StemVectors(EmbeddingFunction):
    """Makes queries of mixes and rows of stems, by the model that a table's vectors are of."""

    made_by: str
    """The model's id."""
    dim: int
    """Width of its vectors."""
    place: str
    """Where it is: a folder, a name on a hub, or what ``find_model`` takes."""
    _model: StemJepa | None = PrivateAttr(None)

    def ndims(self) -> int:
        """Return the width of a vector."""
        return self.dim

    def compute_query_embeddings(self, query: Any) -> list[np.ndarray]:
        """Predict a stem that fits with a mix: one vector (dim,), unit norm.

        Args:
            query: a mix (``Audio``), for any music; or a mix and an instrument in words.

        Raises:
            ArtifactError: the model is not to be found, or is another.
            ValueError: the mix cannot be read, is silent or too short.
        """
        is_pair = isinstance(query, tuple) and isinstance(query[1], str)
        mix, instrument = query if is_pair else (query, MUSIC)
        return [self._loaded().predict(mix, instrument).numpy()]

    def compute_source_embeddings(self, stems: Any) -> list[np.ndarray]:
        """Embed stems: a list of files, one vector (dim,) each."""
        return [self._loaded().embed_stem(x).numpy() for x in self.sanitize_input(stems)]

    def compute_query_embeddings_with_retry(self, *args: Any, **options: Any) -> list[Any]:
        """Do it once: nothing here mends itself."""
        return self.compute_query_embeddings(*args, **options)

    def compute_source_embeddings_with_retry(self, *args: Any, **options: Any) -> list[Any]:
        """Do it once: nothing here mends itself."""
        return self.compute_source_embeddings(*args, **options)

    def _loaded(self) -> StemJepa:
        from ml.models.stem_jepa import StemJepa  # who publishes needs no torch

        if self._model is None:
            place = self.place
            if "/" not in place and not Path(place).is_dir():
                place = find_checkpoint(load_settings(existing_home(None)).layout, place)
            model = StemJepa.from_pretrained(place)
            if model.model_id != self.made_by:
                raise ArtifactError(
                    f"{place} is model {model.model_id}, but the vectors of this table are of "
                    f"{self.made_by}; name that one: lancedb.embeddings.get_registry()"
                    f'.set_var("{VARIABLE}", …)'
                )
            self._model = model
        return self._model


def table_metadata(model_id: str, dim: int) -> dict[str, Any]:
    """Describe the function in the metadata of a table's schema, as LanceDB looks for it."""
    function = StemVectors.create(made_by=model_id, dim=dim, place=f"$var:{VARIABLE}:{model_id}")
    column = EmbeddingFunctionConfig(vector_column="vector", source_column="key", function=function)
    return get_registry().get_table_metadata([column]) or {}
