"""What decides a training: model, data, optimiser, objective; sizes, presets and schedules.

A *size* (``tiny``, ``small``, ``paper``) says how large and how long; a *preset* says which row of
Table I (Riou et al.) it is. Every departure from the paper is a field documented as "Differs:", off
at size ``paper``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal

from ml.audio.mel import LogMelConfig
from ml.device import Precision
from ml.models.config import StemJepaConfig
from ml.models.predictor import Conditioning, PredictorConfig
from ml.models.vit import ViTConfig
from ml.plain import added_field, did_you_mean
from ml.shards.pairs import PairConfig

Size = Literal["tiny", "small", "paper"]
PRESETS = ("contrastive", "class", "clap", "pretrained", "film", "film-nce", "two-part")
"""Rows of Table I in its order, and ours."""
NEEDS_PHASE_1 = ("pretrained", "film", "film-nce", "two-part")
_NCE_WEIGHTS = {"film-nce": 0.5, "two-part": 2.0}
"""Of our presets, whose targets are centred at all sizes: without, the term hardly learns."""
_SONG_SHARES = {"two-part": 0.35}
"""Chosen on 60 validation songs made like ``demo-plain`` from another seed: at 0.3, 0.4, 0.5, 0.6
within label is 22.8, 20.5, 19.4, 18.8, R@1 20.9, 23.0, 23.0, 21.3 and the right instrument first
for 79, 75, 68, 53 %. It weighs answers alone and teaches nothing."""
_TINY_STEPS = {"contrastive": 600, "two-part": 800}
"""Of presets at size ``tiny``; 400 of all others. At 400 two-part asks for the right instrument by
ear in 75 % of queries, at 800 in 87 %."""
_COLOUR_DB = {"contrastive": 6.0, "two-part": 6.0}
"""Random gain and equaliser below size ``paper``: stems of a song may not be known by loudness and
colour."""
_OCTAVE = LogMelConfig(
    window_samples=2_048, hop_samples=320, mel_bins=160, is_octave=True, is_measured=True
)
"""Frontend below size ``paper``, 22 bands an octave: on 60 validation songs phase 1 places the
right stem at 17.9 within its label, with the mel bands of the paper at 25.9, at the same work."""
_CONDITIONING: dict[str, Conditioning] = {
    "class": "class",
    "clap": "concat",
    "pretrained": "concat",
}
"""Of presets; all others are ``film``."""
_MISSING = object()


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW and its schedule."""

    learning_rate: float = 1e-3
    """Peak rate, for the batch size of the configuration. At size ``paper`` it is 1e-3 (``class``:
    3e-4, the predecessor's) times batch size over 256, unless it is set."""
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.05
    is_decaying_all: bool = True
    """Decay biases and norms too, as the predecessor does. False: matrices only. Differs. Never
    the temperature, which is none of its parameters."""
    warmup_steps: int = 20_000
    """Linear warm-up, then cosine to 0."""
    clip_norm: float = 3.0
    """Largest gradient norm (predecessor)."""
    encoder_rate: float = 1.0
    """Phase 2: multiplies the learning rate of the encoder. Differs: a small predictor far from
    its goal otherwise undoes what phase 1 has learned."""
    encoder_frozen_share: float = 0.0
    """Phase 2: the encoder stays fixed for this share of the steps. Differs."""

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate={self.learning_rate}: expected more than 0")
        if not 0 <= self.encoder_frozen_share <= 1:
            raise ValueError(f"encoder_frozen_share={self.encoder_frozen_share}: expected 0 … 1")


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What is minimised."""

    temperature: float = 0.1
    """Phase 1: initial temperature; it divides the cosine and its logarithm is learned."""
    temperature_min: float = 0.02
    temperature_max: float = 1.0
    is_temperature_kept: bool = added_field(False)
    """Put it back to the bound that a step passed, from where it can return. False: bound the value
    that is used. Differs: past a bound it has no gradient, and stays there."""
    ema_start: float = 0.99995
    """τ0 of equation 4. For N steps the paper's horizon scales as 1 − τ0 = 15 / N."""
    ema_end: float = 0.99999
    """τT of equation 4; 1 − τT = 3 / N."""
    nce_weight: float = 0.0
    """Phase 2: weight of the conditioned contrastive term (``losses.conditioned_nce``). Differs:
    not in the paper; presets ``film-nce`` and ``two-part``."""
    nce_temperature: float = 0.1
    gain_db: float = 0.0
    """Independent uniform random gain of ± this on context and target. Differs."""
    eq_db: float = added_field(0.0)
    """Independent random equaliser on context and target, within ± this: smooth over the mel
    scale. Differs: against what tells the song by its colour alone; stems of one production share
    it. Like the gain it is drawn for the global batch from seed and step."""
    pooled_weight: float = added_field(0.0)
    """Phase 2: weight of the pooled term (``losses.pooled_loss``). Differs: evaluation compares
    means over patches."""
    wording_share: float = added_field(0.0)
    """Phase 2: with this probability other words (``ml.labels.wordings``) take the place of the
    drawn label's. Differs: for labels that training does not have."""
    condition_noise: float = added_field(0.0)
    """Phase 2: norm of a random vector that is added to the condition, of norm 1. Differs:
    likewise."""

    def __post_init__(self) -> None:
        for name in ("gain_db", "eq_db", "nce_weight", "pooled_weight", "condition_noise"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: expected 0 (off) or more")
        if not 0 <= self.wording_share <= 1:
            raise ValueError(f"wording_share={self.wording_share}: expected 0 … 1")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """All that decides the weights, given data and phase 1."""

    preset: str
    size: Size
    model: StemJepaConfig
    pairs: PairConfig
    optimizer: OptimizerConfig
    objective: ObjectiveConfig
    batch_size: int = 256
    steps: int = 300_000
    seed: int = 0
    precision: Precision = "bf16"

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ValueError(f"preset {self.preset!r}: expected one of {', '.join(PRESETS)}")
        if self.batch_size < 2 or self.steps < 1:
            raise ValueError(
                f"batch_size={self.batch_size}, steps={self.steps}: expected at least 2 and 1"
            )
        self._check_agreement()
        if self.pairs.hard_negatives and (model := self.model).phase != "jepa":
            raise ValueError(
                f"pairs.hard_negatives={self.pairs.hard_negatives} in phase {model.phase}: they "
                "belong to the conditioned contrastive term of phase 2; leave it 0"
            )
        if self.pairs.hard_negatives and not self.objective.nce_weight:
            raise ValueError(
                f"pairs.hard_negatives={self.pairs.hard_negatives} with objective.nce_weight=0: "
                "expected a weight, as they belong to that term; use preset film-nce or set it"
            )
        if self.model.song_share and (self.pairs.hard_negatives or not self.objective.nce_weight):
            raise ValueError(
                f"model.song_share={self.model.song_share:g} with objective.nce_weight="
                f"{self.objective.nce_weight:g}, pairs.hard_negatives={self.pairs.hard_negatives}: "
                "expected a weight, which trains the instrument part, and no hard negatives"
            )

    def _check_agreement(self) -> None:
        """Refuse what is set in two places and differs."""
        model, pairs = self.model, self.pairs
        if model.chunk_s != pairs.chunk_s:
            raise ValueError(
                f"model.chunk_s={model.chunk_s:g}, pairs.chunk_s={pairs.chunk_s:g}: expected equal "
                "lengths; set both"
            )
        if model.predictor is not None and model.predictor.dim != model.encoder.dim:
            raise ValueError(
                f"model.encoder.dim={model.encoder.dim}, model.predictor.dim="
                f"{model.predictor.dim}: expected equal widths; set both"
            )
        if model.log_mel.mel_bins != model.encoder.mel_bins:
            raise ValueError(
                f"model.log_mel.mel_bins={model.log_mel.mel_bins}, model.encoder.mel_bins="
                f"{model.encoder.mel_bins}: expected equal heights; set both"
            )


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How often the loop looks up from its work; does not change the weights."""

    log_every: int = 10
    """Steps between two lines of ``metrics.jsonl``."""
    validate_every: int = 100
    """Steps between two validations; also after the last step."""
    valid_batches: int = 2
    """Batches of the valid split in a validation."""
    checkpoint_every: int = 0
    """Steps between two checkpoints, also after the last step; 0: by time alone."""
    checkpoint_s: float = 900.0
    """Seconds after which one is due: of phase 2 at size ``paper`` it is 2.2 GB."""
    is_saving_beside: bool | None = None
    """Write checkpoints in a thread, from a copy in memory, while steps go on. None: on a GPU,
    whose steps leave the processor free."""
    keep_last: int = 2
    """Checkpoints kept while training."""
    keep_best: bool = True
    """Keep the model of the best validation too, by within-label rank: ``best`` in the run."""
    is_compiled: bool | None = None
    """``torch.compile`` of the networks; None: on a GPU only (on a CPU compiling takes a minute).
    Rounding may differ."""
    workers: int | None = None
    """Processes that decode batches; 0: in the training process. None: on a GPU the cores but one,
    shared by the processes of this machine; on a CPU, whose cores compute, 0."""
    is_recomputing: bool | None = None
    """Compute blocks of encoders again in the backward pass instead of keeping what they hold: a
    quarter more work, a fraction of the memory, the same gradients. None: on a GPU that the step
    would not fit otherwise (``cost.step_cost``)."""
    decoded_gb: float = 2.0
    """Memory for decoded FLACs, all workers together: a corpus that fits is decoded only once."""


def training_config(
    preset: str,
    *,
    size: Size = "tiny",
    condition_dim: int = 384,
    seed: int = 0,
    overrides: Mapping[str, Any] | None = None,
) -> TrainingConfig:
    """Make the configuration of a row of Table I at a size.

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
    for what, name, known in (("size", size, sizes), ("preset", preset, PRESETS)):
        if name not in known:
            meant = did_you_mean(name, known)
            raise ValueError(f"{what} {name!r}{meant}: expected one of {', '.join(known)}")
    base = replace(sizes[size](preset, condition_dim), seed=seed)
    config = changed_config(base, overrides or {})
    return _in_proportion(config, base, overrides or {}) if size == "paper" else config


def changed_config(config: TrainingConfig, overrides: Mapping[str, Any]) -> TrainingConfig:
    """Give a configuration other values by dotted field.

    Raises:
        ValueError: an unknown field, or a value out of range.
    """
    return _replaced(config, {tuple(k.split(".")): v for k, v in overrides.items()})


def _in_proportion(
    config: TrainingConfig, base: TrainingConfig, overrides: Mapping[str, Any]
) -> TrainingConfig:
    """Let rate, warm-up and horizon of the EMA follow another batch size and number of steps.

    What is among the overrides itself stays as it was asked for.
    """
    optimizer, objective, follows = base.optimizer, base.objective, {}
    if config.batch_size != base.batch_size:
        share = config.batch_size / base.batch_size
        follows["optimizer.learning_rate"] = optimizer.learning_rate * share
    if config.steps != base.steps:
        share = config.steps / base.steps
        follows["optimizer.warmup_steps"] = max(1, round(optimizer.warmup_steps * share))
        for name in ("ema_start", "ema_end"):
            rate = 1 - (1 - getattr(objective, name)) / share
            follows[f"objective.{name}"] = max(0.0, rate)
    return changed_config(config, {k: v for k, v in follows.items() if k not in overrides})


def paper(preset: str, condition_dim: int) -> TrainingConfig:
    """Take the paper's numbers (section II-D; where it is silent, the predecessor's)."""
    config = _preset_at_size(
        preset,
        condition_dim,
        size="paper",
        encoder=ViTConfig(is_xavier=True),
        is_centred=False,
        optimizer=OptimizerConfig(learning_rate=3e-4 if preset == "class" else 1e-3),
        objective=ObjectiveConfig(is_temperature_kept=True),
    )
    predictor = config.model.predictor
    if predictor is not None and predictor.conditioning != "film":
        predictor = replace(predictor, is_plainly_drawn=True)
    return replace(
        config,
        model=replace(config.model, predictor=predictor),
        pairs=replace(config.pairs, rule="peak", is_by_track=True),
    )


def small(preset: str, condition_dim: int) -> TrainingConfig:
    """Take ViT-Small (22M parameters) and 30k steps a phase: about a night on one GPU.

    Differs from ``paper`` beyond size: octave bands with measured statistics, centring, gentler
    rates in phase 2, no decay of biases and norms (see the fields).
    """
    steps = 30_000
    return _preset_at_size(
        preset,
        condition_dim,
        size="small",
        encoder=ViTConfig(dim=384, layers=12, heads=6, mel_bins=_OCTAVE.mel_bins),
        is_centred=True,
        optimizer=OptimizerConfig(
            learning_rate=5e-4, warmup_steps=2_000, is_decaying_all=False, encoder_rate=0.3
        ),
        objective=ObjectiveConfig(
            temperature=0.2,
            ema_start=1 - 15 / steps,
            ema_end=1 - 3 / steps,
            gain_db=6.0,
            eq_db=_COLOUR_DB.get(preset, 0.0),
        ),
        steps=steps,
    )


def tiny(preset: str, condition_dim: int) -> TrainingConfig:
    """Take what learns the demo corpus on two cores in minutes; 4 s chunks.

    Differs from ``paper`` as ``small`` does.
    """
    is_phase_1 = preset == "contrastive"
    return _preset_at_size(
        preset,
        condition_dim,
        size="tiny",
        encoder=ViTConfig(dim=128, layers=3, heads=4, mel_bins=_OCTAVE.mel_bins),
        hidden=256,
        chunk_s=4.0,
        is_centred=True,
        optimizer=OptimizerConfig(
            learning_rate=6e-4 if is_phase_1 else 1.5e-3,
            warmup_steps=50 if is_phase_1 else 40,
            is_decaying_all=False,
            encoder_rate=0.3,
        ),
        objective=ObjectiveConfig(
            temperature=0.2,
            ema_start=0.9995,
            ema_end=0.9995,
            gain_db=_COLOUR_DB.get(preset, 0.0),
            eq_db=_COLOUR_DB.get(preset, 0.0),
        ),
        batch_size=64,
        steps=_TINY_STEPS.get(preset, 400),
    )


def _preset_at_size(
    preset: str,
    condition_dim: int,
    *,
    size: Size,
    encoder: ViTConfig,
    is_centred: bool,
    optimizer: OptimizerConfig,
    objective: ObjectiveConfig,
    hidden: int = 1024,
    chunk_s: float = 8.0,
    **lengths: Any,
) -> TrainingConfig:
    """Put a preset together; ``is_centred``: with octave bands and their statistics too."""
    predictor = PredictorConfig(
        conditioning=_CONDITIONING.get(preset, "film"),
        dim=encoder.dim,
        hidden=hidden,
        condition_dim=condition_dim,
    )
    return TrainingConfig(
        preset=preset,
        size=size,
        model=StemJepaConfig(
            log_mel=_OCTAVE if is_centred else LogMelConfig(),
            encoder=encoder,
            predictor=None if preset == "contrastive" else predictor,
            chunk_s=chunk_s,
            target_norm="centre" if is_centred or preset in _NCE_WEIGHTS else "standardise",
            is_centred=is_centred,
            song_share=_SONG_SHARES.get(preset, 0.0),
        ),
        pairs=PairConfig(chunk_s=chunk_s),
        optimizer=optimizer,
        objective=replace(objective, nce_weight=_NCE_WEIGHTS.get(preset, 0.0)),
        **lengths,
    )


def _replaced(config: Any, values: Mapping[tuple[str, ...], Any], *above: str) -> Any:
    """Replace values by path; all at once, as values in two places must agree."""
    known = {f.name for f in fields(config)}
    changed: dict[str, Any] = {}
    for name in dict.fromkeys(path[0] for path in values):
        full = ".".join((*above, name))
        if name not in known:
            raise ValueError(
                f"{type(config).__name__} has no field {name!r} (in {full!r})"
                f"{did_you_mean(name, known)}; "
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


def warmup_cosine(step: int, *, steps: int, warmup_steps: int, peak: float) -> float:
    """Rise linearly to ``peak``, then fall as a half cosine to 0.

    Args:
        step: 0 … ``steps - 1``; step 0 already learns (``peak / warmup_steps``).
        steps: length of training.
        warmup_steps: length of the warm-up.
        peak: highest rate.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    share = (step - warmup_steps) / max(1, steps - warmup_steps)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


def linear(step: int, *, steps: int, start: float, end: float) -> float:
    """Go from ``start`` at step 0 to ``end`` at the last (the EMA rate τ of equation 4)."""
    return start + (end - start) * min(1.0, step / max(1, steps - 1))
