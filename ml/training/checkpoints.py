"""Checkpoints: what a training takes of one that is there.

A checkpoint is a model folder (``ml.models.pretrained`` writes it); one to resume from has beside
the model a ``training_state.pt``: optimizer, EMA master copy, temperature, step; tensors and plain
types only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch

from ml import kinds
from ml.artifacts import ArtifactError, read_json
from ml.models.config import StemJepaConfig
from ml.models.pretrained import STATE_NAME, save_checkpoint
from ml.models.stem_jepa import StemJepa
from ml.plain import dataclass_from, first_line, jsonable
from ml.training.config import TrainingConfig, changed_config
from ml.training.run_folder import differing_fields


class CheckpointWriter:
    """Writes checkpoints beside the steps of a training: a step waits for a copy in memory alone.

    One at a time: the next one, and the end of the block, wait for the one before and raise its
    error.
    """

    def __init__(self, *, is_beside: bool) -> None:
        """Begin with nothing to write.

        Args:
            is_beside: False: a step waits until its checkpoint is written.
        """
        self._is_beside = is_beside
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[object] | None = None

    def __enter__(self) -> CheckpointWriter:
        """Write what is saved inside the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for the last one."""
        with self._thread:
            self._wait()

    def save(
        self,
        path: Path,
        model: StemJepa,
        config: TrainingConfig,
        *,
        origin: Mapping[str, Any],
        state: dict[str, Any] | None = None,
        then: Callable[[], object] = lambda: None,
    ) -> None:
        """Write a checkpoint as ``save_checkpoint`` does, then call ``then``."""
        self._wait()
        if not self._is_beside:
            save_checkpoint(path, model, config, origin=origin, state=state)
            then()
            return
        copied = cast("StemJepa", _Copy(model.config, _copied(model.state_dict())))
        origin, state = dict(origin), _copied(state)

        def write() -> None:
            save_checkpoint(path, copied, config, origin=origin, state=state)
            then()

        self._writing = self._thread.submit(write)

    def _wait(self) -> None:
        if self._writing is not None:
            self._writing.result()


@dataclass(frozen=True)
class _Copy:
    """What of a model its checkpoint is made of."""

    config: StemJepaConfig
    weights: Mapping[str, torch.Tensor]

    def state_dict(self) -> Mapping[str, torch.Tensor]:
        return self.weights


def _copied(value: Any) -> Any:
    """Copy what a state is made of, tensors into this computer's memory."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _copied(inner) for key, inner in value.items()}
    return [_copied(inner) for inner in value] if isinstance(value, list) else value


def load_training_state(path: Path) -> dict[str, Any]:
    """Load what ``save_checkpoint`` got as ``state``, plus the weights under ``model``.

    Raises:
        ArtifactError: a file is missing or damaged.
    """
    from pickle import UnpicklingError

    from safetensors import SafetensorError
    from safetensors.torch import load_file

    damaged = (OSError, RuntimeError, SafetensorError, UnpicklingError, EOFError, ValueError)
    wrong = (AttributeError, LookupError, TypeError)  # what of it is no state
    try:
        state = torch.load(path / STATE_NAME, map_location="cpu", weights_only=True)
        return {**state, "model": load_file(path / "model.safetensors")}
    except (*damaged, *wrong) as error:
        raise ArtifactError(
            f"{path} cannot be resumed from: {first_line(error)}; delete this checkpoint to resume "
            "from the one before it"
        ) from None


def with_frontend(
    config: TrainingConfig, start: Path, overrides: Mapping[str, Any]
) -> TrainingConfig:
    """Give a configuration the log-mel of the checkpoint that its training starts from.

    Args:
        config: what is to be trained.
        start: the checkpoint, whose encoder knows its own log-mel only.
        overrides: what was asked for by dotted field.

    Raises:
        ArtifactError: the encoder is of another size, or another log-mel is asked for.
    """
    begun = dataclass_from(StemJepaConfig, read_json(start / "config.json")["model"])
    encoder = replace(config.model.encoder, mel_bins=begun.encoder.mel_bins)
    model = replace(config.model, log_mel=begun.log_mel, encoder=encoder)
    config = replace(config, model=model)
    asked = {name: value for name, value in overrides.items() if name.startswith("model.")}
    wanted = changed_config(config, asked).model
    parts = ({"log_mel": part.log_mel, "encoder": part.encoder} for part in (begun, wanted))
    there, here = (jsonable({"model": part}) for part in parts)
    if fields := differing_fields(there, here):
        raise ArtifactError(
            f"{start} has another shape than this configuration: {'; '.join(fields)}; take its "
            "values with --set, or train phase 1 at the same size first: "
            "stems train --preset contrastive"
        )
    return config


@torch.no_grad()
def start_from_encoder(model: StemJepa, checkpoint: Path) -> None:
    """Give a phase-1 model the encoder and the frontend of a checkpoint of either phase.

    Of a model with a song part it is the song encoder: phase 1, as it was trained.

    Raises:
        ArtifactError: the checkpoint is damaged.
    """
    weights = _weights_of(checkpoint)
    encoder = _below(weights, "song_encoder.") or _below(weights, "encoder.")
    try:
        model.encoder.load_state_dict(encoder)
        model.log_mel.load_state_dict(_below(weights, "log_mel."))
    except RuntimeError as error:
        raise _damaged(checkpoint, error) from None


@torch.no_grad()
def start_from_phase_1(model: StemJepa, phase_1: Path) -> None:
    """Give a phase-2 model the encoder, frontend and running means of a phase-1 checkpoint.

    The target encoder starts as a copy of the encoder (Riou et al., section II-B); the song part,
    where the model has one, is phase 1 and stays so.

    Raises:
        ArtifactError: the checkpoint has another shape.
    """
    weights = _weights_of(phase_1)
    assert model.target_encoder is not None
    try:
        for part in (model.encoder, model.target_encoder, model.song_encoder):
            if part is not None:
                part.load_state_dict(_below(weights, "encoder."))
        model.log_mel.load_state_dict(_below(weights, "log_mel."))
        for name in ("context_mean", "target_mean", "mean_updates", "spectrum_mean"):
            getattr(model, name).copy_(weights[name])
        if model.has_song_part:
            model.song_context_mean.copy_(weights["context_mean"])
            model.song_target_mean.copy_(weights["target_mean"].mean((0, 1)))
    except RuntimeError as error:
        raise ArtifactError(
            f"{phase_1} has another shape than this configuration: {error}; train phase 1 at the "
            "same size first: stems train --preset contrastive"
        ) from None


@torch.no_grad()
def go_on_from_phase_2(model: StemJepa, checkpoint: Path) -> None:
    """Give a phase-2 model, begun from phase 1, what another learned in phase 2.

    Encoder, target encoder (its own, else a copy of the encoder), predictor and running means, and
    the heads where both have them. The song part stays phase 1's. Differs: not in the paper.

    Raises:
        ArtifactError: the checkpoint is damaged.
    """
    weights = _weights_of(checkpoint)
    assert model.predictor is not None
    assert model.target_encoder is not None
    encoder, heads = _below(weights, "encoder."), _below(weights, "instrument_heads.")
    try:
        model.encoder.load_state_dict(encoder)
        model.target_encoder.load_state_dict(_below(weights, "target_encoder.") or encoder)
        model.predictor.load_state_dict(_below(weights, "predictor."))
        if heads and model.instrument_heads is not None:
            model.instrument_heads.load_state_dict(heads)
        for name in ("context_mean", "target_mean", "mean_updates"):
            getattr(model, name).copy_(weights[name])
    except (KeyError, RuntimeError) as error:
        raise _damaged(checkpoint, error) from None


def _weights_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(checkpoint / "model.safetensors")
    except (OSError, SafetensorError) as error:
        raise _damaged(checkpoint, error) from None


def _damaged(checkpoint: Path, error: Exception) -> ArtifactError:
    remedy = kinds.MODEL.remedy(checkpoint)
    return ArtifactError(f"{checkpoint} is damaged: {error}; make it again with: {remedy}")


def _below(weights: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
