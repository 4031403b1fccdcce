"""What is needed to build the model; saved with every checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from ml.audio.mel import LogMelConfig
from ml.models.predictor import PredictorConfig
from ml.models.vit import ViTConfig
from ml.plain import added_field

TargetNorm = Literal["standardise", "centre", "centre-scale"]


@dataclass(frozen=True, kw_only=True)
class StemJepaConfig:
    """Frontend, encoder, predictor, and how targets are normalised."""

    log_mel: LogMelConfig = field(default_factory=LogMelConfig)
    """The frontend."""
    encoder: ViTConfig = field(default_factory=ViTConfig)
    """Size of encoder and target encoder."""
    predictor: PredictorConfig | None = None
    """None: phase 1, no predictor and no target encoder."""
    chunk_s: float = 8.0
    """Length of a training chunk, in seconds; longer audio is embedded chunk by chunk."""
    target_norm: TargetNorm = "standardise"
    """How target patches are normalised before the cosine. ``standardise``: LayerNorm without
    affine (predecessor). ``centre``: minus the running mean at their place. Differs: LayerNorm then
    cosine does not remove the large component that all audio shares, nor the one that all patches
    of a place share (90 % and 4 % of the power of a trained encoder); centring removes both.
    ``centre-scale``: also divided by the running deviation per dimension and frequency row.
    Differs: a few strong dimensions otherwise decide the cosine. Never by statistics of one chunk
    over its time: they hold key, timbre and production."""
    is_centred: bool = False
    """Phase 1: subtract each side's mean over the batch before the cosine. Differs: uncentred
    embeddings of all audio point the same way and the loss stays at chance for long."""
    is_context_centred: bool = added_field(False)
    """Phase 2: the predictor gets the context's patches normalised as targets are: minus their
    own running mean at their place, for ``centre-scale`` over the targets' deviation. Differs:
    with ``predictor.is_residual`` and ``target_norm`` ``centre`` phase 2 starts at the score of
    phase 1 (which compares pooled embeddings, each side minus its mean)."""

    song_share: float = added_field(0.0)
    """Phase 2: a vector has two parts, which song it is for and which instrument it is. This share
    of the cosine is that of phase 1's vectors (mix and stem, by phase 1's encoder as it was); the
    rest that of two learned heads, on the prediction and on the encoder's patches of the stem. 0:
    prediction and target alone. Differs: phase 2 alone finds the instrument and forgets what phase
    1 has heard of the mix; and the target encoder, which follows slowly, knows little of
    instruments, as phase 1 makes it blind to them."""

    def __post_init__(self) -> None:
        if not 0 <= self.song_share < 1:
            raise ValueError(f"song_share={self.song_share}: expected 0 (off) or more, below 1")
        if self.song_share and self.predictor is None:
            raise ValueError(
                f"song_share={self.song_share} in phase contrastive: expected 0, as it weighs the "
                "parts of a vector of phase 2"
            )
        if self.target_norm not in get_args(TargetNorm):
            raise ValueError(
                f"target_norm is {self.target_norm!r}; expected one of "
                f"{', '.join(get_args(TargetNorm))}"
            )

    @property
    def patch_grid(self) -> tuple[int, int, int]:
        """Shape of a chunk's patches: (freq_patch, time_patch, dim)."""
        frames = round(self.chunk_s * self.log_mel.rate_hz) // self.log_mel.hop_samples
        encoder = self.encoder
        return encoder.mel_bins // encoder.patch, -(-frames // encoder.patch), encoder.dim

    @property
    def phase(self) -> Literal["contrastive", "jepa"]:
        """Which of the paper's two phases this model belongs to."""
        return "contrastive" if self.predictor is None else "jepa"
