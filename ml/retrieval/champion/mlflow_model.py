"""The champion as a model of MLflow: mixes and stems in, vectors out.

MLflow loads a folder with an ``MLmodel`` by a module's ``_load_pyfunc``; this one does it by the
checkpoint that lies in that folder. So the weights are there once, beside the ``MLmodel``, and
nothing is pickled. Whoever loads it has this package installed, as on no index there is one:
``mlflow models serve --env-manager local``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from ml.models.stem_jepa import StemJepa

MLMODEL_NAME = "MLmodel"
DESCRIPTION = """Finds the stem that fits a mix. A version is a model that answers queries or did.

A row has a `path` (a file that whoever predicts can read) or `samples` with their `rate_hz` (mono,
full scale ±1). With an `instrument` in words it is a mix, and the answer is the vector of a stem
that would fit; without one it is a stem, and the answer is its own. Both of unit norm: their scalar
product says how well they go together.

```python
model = mlflow.pyfunc.load_model("models:/stem-jepa@champion")
wanted = model.predict(pandas.DataFrame([{"path": "mix.wav", "instrument": "bass guitar"}]))
stem = model.predict(pandas.DataFrame([{"path": "stem.wav"}]))
```
"""
_EXAMPLE_HZ, _EXAMPLE_S, _TONE_HZ = 1000, 1, 110


class StemVectors:
    """What MLflow calls: a row a mix or a stem."""

    def __init__(self, model: StemJepa):
        self._model = model

    def predict(self, rows: pd.DataFrame) -> np.ndarray:
        """Predict a stem that fits with each mix, embed each stem.

        Args:
            rows: see ``DESCRIPTION``.

        Returns:
            (row, dim) float32, unit norm.

        Raises:
            ValueError: a row has no audio, or has it twice; it is silent or too short.
        """
        vectors = [self._vector(row) for row in rows.to_dict("records")]
        return np.array(vectors, dtype=np.float32).reshape(-1, self._model.dim)

    def _vector(self, row: Mapping[Any, Any]) -> np.ndarray:
        given = {name: value for name, value in row.items() if not _is_missing(value)}
        if ("path" in given) == ("samples" in given) or ("samples" in given) != (
            "rate_hz" in given
        ):
            raise ValueError(
                f"a row has {', '.join(map(str, sorted(given))) or 'nothing'}; expected path, or "
                "samples and rate_hz (of a mix with instrument, of a stem without)"
            )
        audio = given.get("path") or (np.asarray(given["samples"]), int(given["rate_hz"]))
        if "instrument" in given:
            return self._model.predict(audio, given["instrument"]).numpy()
        return self._model.embed_stem(audio).numpy()


def _is_missing(value: Any) -> bool:
    """Tell what a column has where a row has nothing."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _load_pyfunc(path: str) -> StemVectors:
    from ml.models.stem_jepa import load_model

    return StemVectors(load_model(path))


def write_mlflow_model(folder: Path, run_id: str, where: str) -> None:
    """Write what makes a checkpoint a model of MLflow: ``MLmodel``, requirements, an example.

    Args:
        folder: a new one.
        run_id: the run that keeps the checkpoint.
        where: among its artifacts.
    """
    import pandas as pd
    from mlflow import pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types.schema import Array, ColSpec, DataType, Schema, TensorSpec

    columns = {
        "path": DataType.string,
        "samples": Array(DataType.double),
        "rate_hz": DataType.long,
        "instrument": DataType.string,
    }
    signature = ModelSignature(
        inputs=Schema([ColSpec(kind, name, required=False) for name, kind in columns.items()]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, -1))]),
    )
    time_s = np.arange(_EXAMPLE_S * _EXAMPLE_HZ) / _EXAMPLE_HZ
    tone = (0.5 * np.sin(2 * np.pi * _TONE_HZ * time_s)).round(3).tolist()
    row = {"samples": tone, "rate_hz": _EXAMPLE_HZ, "instrument": "bass guitar"}
    pyfunc.save_model(
        folder,
        loader_module=__name__,
        mlflow_model=Model(artifact_path=where, run_id=run_id),
        signature=signature,
        input_example=pd.DataFrame([row]),
        pip_requirements=["stem-retrieval"],
    )
