"""What decides a training: model, data, optimiser, objective.

Every departure from the paper is a field documented as "Differs:", off in ``presets.paper``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ml.device import Precision
from ml.models.config import StemJepaConfig
from ml.plain import added_field
from ml.shards.pairs import PairConfig

Size = Literal["tiny", "small", "paper"]
PRESETS = ("contrastive", "class", "clap", "pretrained", "film", "film-nce")
"""Rows of Table I in its order, and ours."""
NEEDS_PHASE_1 = ("pretrained", "film", "film-nce")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW and its schedule."""

    learning_rate: float = 1e-3
    """Peak rate, for the batch size of the configuration."""
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.05
    is_decaying_all: bool = True
    """Decay biases and norms too, as the predecessor does. False: matrices only. Differs."""
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
    ema_start: float = 0.99995
    """τ0 of equation 4. For N steps the paper's horizon scales as 1 − τ0 = 15 / N."""
    ema_end: float = 0.99999
    """τT of equation 4; 1 − τT = 3 / N."""
    nce_weight: float = 0.0
    """Phase 2: weight of the conditioned contrastive term (``losses.conditioned_nce``). Differs:
    not in the paper; preset ``film-nce``."""
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

    def __post_init__(self) -> None:
        for name in ("gain_db", "eq_db", "nce_weight", "pooled_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: expected 0 (off) or more")


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

    def _check_agreement(self) -> None:
        """What is set in two places must be the same in both."""
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

    @property
    def needs_phase_1(self) -> bool:
        """Whether training starts from a contrastive checkpoint."""
        return self.preset in NEEDS_PHASE_1


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How often the loop looks up from its work; does not change the weights."""

    log_every: int = 10
    """Steps between two lines of ``metrics.jsonl``."""
    validate_every: int = 100
    """Steps between two validations; also after the last step."""
    valid_batches: int = 2
    """Batches of the valid split in a validation."""
    checkpoint_every: int = 250
    """Steps between two checkpoints; also after the last step."""
    keep_last: int = 2
    """Checkpoints kept while training."""
    keep_best: bool = True
    """Keep the model of the best validation too, by normalised rank: ``best`` in the run."""
    is_compiled: bool | None = None
    """``torch.compile`` of the networks; None: on a GPU only (on a CPU compiling takes a minute).
    Rounding may differ."""
    workers: int = 0
    """Processes that decode batches; 0: in the training process."""
    decoded_gb: float = 2.0
    """Memory for decoded FLACs, all workers together: a corpus that fits is decoded only once."""
