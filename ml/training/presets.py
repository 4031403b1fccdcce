"""Three sizes, and the rows of Table I (Riou et al.) as presets.

A size says how large and how long; a preset says which row of Table I it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from ml.audio.mel import LogMelConfig
from ml.models.config import StemJepaConfig
from ml.models.predictor import Conditioning, PredictorConfig
from ml.models.vit import ViTConfig
from ml.shards.pairs import PairConfig
from ml.training.config import (
    PRESETS,
    ObjectiveConfig,
    OptimizerConfig,
    Size,
    TrainingConfig,
)

_CONDITIONING: dict[str, Conditioning] = {
    "class": "class",
    "clap": "concat",
    "pretrained": "concat",
}
_MISSING = object()


def training_config(
    preset: str,
    *,
    size: Size = "tiny",
    condition_dim: int = 384,
    seed: int = 0,
    overrides: Mapping[str, Any] | None = None,
) -> TrainingConfig:
    """The configuration of a row of Table I at a size.

    Args:
        preset: one of ``PRESETS``.
        size: ``tiny`` (learns on two cores), ``small`` (22M parameters) or ``paper``.
        condition_dim: width of the label encoder's embeddings.
        seed: of initialisation and data order.
        overrides: values by dotted field, as ``{"optimizer.learning_rate": 3e-4}``.

    Raises:
        ValueError: an unknown preset, size or field, or a value out of range.
    """
    sizes = {"tiny": tiny, "small": small, "paper": paper}
    if size not in sizes:
        raise ValueError(f"size {size!r}: expected one of {', '.join(sizes)}")
    if preset not in PRESETS:
        raise ValueError(f"preset {preset!r}: expected one of {', '.join(PRESETS)}")
    return changed_config(replace(sizes[size](preset, condition_dim), seed=seed), overrides or {})


def changed_config(config: TrainingConfig, overrides: Mapping[str, Any]) -> TrainingConfig:
    """A configuration with other values by dotted field.

    Raises:
        ValueError: an unknown field, or a value out of range.
    """
    return _replaced(config, {tuple(k.split(".")): v for k, v in overrides.items()})


def paper(preset: str, condition_dim: int) -> TrainingConfig:
    """The paper's numbers (section II-D; where it is silent, the predecessor's)."""
    return TrainingConfig(
        preset=preset,
        size="paper",
        model=_model(preset, ViTConfig(), LogMelConfig(), condition_dim=condition_dim, hidden=1024),
        pairs=PairConfig(chunk_s=8.0),
        optimizer=OptimizerConfig(),
        objective=_objective(preset, ObjectiveConfig()),
    )


def small(preset: str, condition_dim: int) -> TrainingConfig:
    """ViT-Small (22M parameters) and 30k steps a phase: about a night on one GPU.

    Differs from ``paper`` beyond size: measured log-mel statistics, centring, gentler rates in
    phase 2, no decay of biases and norms (see the fields).
    """
    steps = 30_000
    return TrainingConfig(
        preset=preset,
        size="small",
        model=_centred(
            _model(
                preset,
                ViTConfig(dim=384, layers=12, heads=6),
                LogMelConfig(is_measured=True),
                condition_dim=condition_dim,
                hidden=1024,
            )
        ),
        pairs=PairConfig(chunk_s=8.0),
        optimizer=OptimizerConfig(
            learning_rate=5e-4,
            warmup_steps=2_000,
            is_decaying_all=False,
            encoder_rate=0.3,
        ),
        objective=_objective(
            preset,
            ObjectiveConfig(
                temperature=0.2, ema_start=1 - 15 / steps, ema_end=1 - 3 / steps, gain_db=6.0
            ),
        ),
        steps=steps,
    )


def tiny(preset: str, condition_dim: int) -> TrainingConfig:
    """What learns the demo corpus on two cores in minutes; 4 s chunks.

    Differs from ``paper`` as ``small`` does.
    """
    is_phase_1 = preset == "contrastive"
    return TrainingConfig(
        preset=preset,
        size="tiny",
        model=_centred(
            _model(
                preset,
                ViTConfig(dim=128, layers=3, heads=4),
                LogMelConfig(is_measured=True),
                condition_dim=condition_dim,
                hidden=256,
                chunk_s=4.0,
            )
        ),
        pairs=PairConfig(chunk_s=4.0),
        optimizer=OptimizerConfig(
            learning_rate=3e-4 if is_phase_1 else 1.5e-3,
            warmup_steps=50 if is_phase_1 else 40,
            is_decaying_all=False,
            encoder_rate=0.3,
        ),
        objective=_objective(
            preset, ObjectiveConfig(temperature=0.2, ema_start=0.9995, ema_end=0.9995)
        ),
        batch_size=64,
        steps=600 if is_phase_1 else 400,
    )


def _model(
    preset: str,
    encoder: ViTConfig,
    log_mel: LogMelConfig,
    *,
    condition_dim: int,
    hidden: int,
    chunk_s: float = 8.0,
) -> StemJepaConfig:
    predictor = PredictorConfig(
        conditioning=_CONDITIONING.get(preset, "film"),
        dim=encoder.dim,
        hidden=hidden,
        condition_dim=condition_dim,
    )
    return StemJepaConfig(
        log_mel=log_mel,
        encoder=encoder,
        predictor=None if preset == "contrastive" else predictor,
        chunk_s=chunk_s,
    )


def _centred(model: StemJepaConfig) -> StemJepaConfig:
    return replace(model, target_norm="centre", is_centred=True)


def _objective(preset: str, objective: ObjectiveConfig) -> ObjectiveConfig:
    return replace(objective, nce_weight=0.5 if preset == "film-nce" else 0.0)


def _replaced(config: Any, values: Mapping[tuple[str, ...], Any], *above: str) -> Any:
    """``config`` with values by path; all at once, as values in two places must agree."""
    known = {f.name for f in fields(config)}
    changed: dict[str, Any] = {}
    for name in dict.fromkeys(path[0] for path in values):
        full = ".".join((*above, name))
        if name not in known:
            raise ValueError(
                f"{type(config).__name__} has no field {name!r} (in {full!r}); "
                f"expected one of: {', '.join(sorted(known))}"
            )
        old = getattr(config, name)
        below = {path[1:]: value for path, value in values.items() if path[0] == name}
        whole = below.pop((), None) if () in below else _MISSING
        if below and (not is_dataclass(old) or whole is not _MISSING):
            inner = ".".join((full, *next(iter(below))))
            raise ValueError(f"{inner!r} does not name a single value")
        changed[name] = _replaced(old, below, *above, name) if below else _single(full, old, whole)
    return replace(config, **changed)


def _single(full: str, old: Any, value: Any) -> Any:
    if isinstance(old, float) and isinstance(value, int):
        return float(value)
    if is_dataclass(old) and not is_dataclass(value):
        raise ValueError(f"{full!r} does not name a single value")
    return value
