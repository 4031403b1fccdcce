"""The encoder: a Vision Transformer over log-mel patches (Riou et al., sections II and II-D).

Shapes in words: mel (batch, mel_bin, frame); patches (batch, freq_patch, time_patch, dim), in
frequency-major order when flattened to (batch, patch, dim). There is no class token.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ml.plain import added_field


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """Size of the encoder. The defaults are ViT-Base, the paper's."""

    dim: int = 768
    """Width of a patch embedding."""
    layers: int = 12
    """Transformer blocks."""
    heads: int = 12
    """Attention heads."""
    mlp_ratio: int = 4
    """Hidden width of a block's MLP over ``dim``."""
    patch: int = 16
    """Side of a square patch, in mel bins and frames."""
    mel_bins: int = 80
    """Height of the log-mel; a multiple of ``patch``."""
    stored_positions: int | None = None
    """None: sine-cosine positions, of any length. A number: positions for so many time patches
    come with the weights (an imported checkpoint), and longer audio is refused."""
    is_xavier: bool = added_field(False)
    """Draw linear maps Xavier-uniform, as the predecessor does. False: truncated normal of 0.02.
    Differs: it is what was tried at 128 and 384 dimensions."""

    def __post_init__(self) -> None:
        if min(self.dim, self.layers, self.heads, self.patch, self.mel_bins) < 1:
            raise ValueError(
                f"dim={self.dim}, layers={self.layers}, heads={self.heads}, patch={self.patch}, "
                f"mel_bins={self.mel_bins}: expected 1 or more of each"
            )
        if self.dim % self.heads or self.dim % 4:
            raise ValueError(
                f"dim={self.dim}, heads={self.heads}: dim must be divisible by heads and by 4"
            )
        if self.mel_bins % self.patch:
            raise ValueError(f"mel_bins={self.mel_bins} is no multiple of patch={self.patch}")


class ViTEncoder(nn.Module):
    """Pre-norm ViT with fixed 2-D sine-cosine positions and a final LayerNorm.

    Lengths other than those seen in training work: positions are truncated or continued, one per
    patch, never rescaled. A log-mel whose frames are no multiple of the patch is padded with 0
    (its mean, after standardisation).
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.is_recomputing = False
        """Keep a block's input alone for the backward pass, and compute the block again there."""
        self.patch_embed = nn.Conv2d(1, config.dim, config.patch, stride=config.patch)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim, eps=1e-5)
        if config.stored_positions is not None:
            freq_patches = config.mel_bins // config.patch
            positions = sincos_positions(freq_patches, config.stored_positions, config.dim)
            self.register_buffer("pos_embed", positions.clone())  # (patch, dim)
        self._initialise()

    def forward(self, mel: Tensor) -> Tensor:
        """Encode a log-mel.

        Args:
            mel: (batch, mel_bin, frame), standardised.

        Returns:
            (batch, freq_patch, time_patch, dim); ``time_patch = ceil(frame / patch)``.
        """
        hidden, grid = self._embedded(mel)
        is_recomputing = self.is_recomputing and torch.is_grad_enabled()
        for block in self.blocks:
            if is_recomputing:
                hidden = checkpoint(block, hidden, use_reentrant=False)
            else:
                hidden = block(hidden)
        return self.norm(hidden).unflatten(1, grid)

    def layer_patches(self, mel: Tensor, layers: Collection[int]) -> dict[int, Tensor]:
        """Encode a log-mel and keep what leaves some of the layers.

        Args:
            mel: (batch, mel_bin, frame), standardised.
            layers: which: 0 is the embedded patches with their positions, k the output of block
                k, and the number of blocks what ``forward`` returns, after the final LayerNorm.

        Returns:
            Layer → (batch, freq_patch, time_patch, dim).

        Raises:
            ValueError: there is no such layer.
        """
        last = len(self.blocks)
        if wrong := sorted(set(layers) - set(range(last + 1))):
            raise ValueError(f"layer {wrong[0]}: expected 0 to {last} (the last)")
        hidden, grid = self._embedded(mel)
        outputs = {0: hidden}
        for depth, block in enumerate(self.blocks[: max(layers, default=0)], start=1):
            hidden = block(hidden)
            if depth in layers:
                outputs[depth] = self.norm(hidden) if depth == last else hidden
        return {layer: outputs[layer].unflatten(1, grid) for layer in layers}

    def _embedded(self, mel: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Embed patches with their positions: (batch, patch, dim), and the shape of their grid."""
        mel = F.pad(mel, (0, -mel.shape[-1] % self.config.patch))
        grid = self.patch_embed(mel[:, None])  # (batch, dim, freq_patch, time_patch)
        freq_patches, time_patches = grid.shape[-2:]
        hidden = grid.flatten(2).transpose(1, 2)  # (batch, patch, dim)
        positions = self._positions(freq_patches, time_patches)
        return hidden + positions.to(hidden), (freq_patches, time_patches)

    def _positions(self, freq_patches: int, time_patches: int) -> Tensor:
        """Get the positions, (freq_patch · time_patch, dim), frequency-major."""
        stored = self.config.stored_positions
        if stored is None:
            return sincos_positions(freq_patches, time_patches, self.config.dim)
        if time_patches > stored:
            raise ValueError(
                f"the log-mel has {time_patches} time patches, and this checkpoint brought "
                f"positions for {stored}; encode longer audio chunk by chunk"
            )
        grid = self.get_buffer("pos_embed").unflatten(0, (freq_patches, stored))
        return grid[:, :time_patches].flatten(0, 1)

    def _initialise(self) -> None:
        """Draw linear maps as configured, with zero biases, and the embedding of patches as one."""
        is_xavier = self.config.is_xavier
        for module in self.modules():
            if isinstance(module, nn.Linear):
                if is_xavier:
                    nn.init.xavier_uniform_(module.weight)
                else:
                    nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        weight = self.patch_embed.weight
        nn.init.xavier_uniform_(weight.view(weight.shape[0], -1))
        if not is_xavier:  # the predecessor leaves it as a convolution has it
            assert self.patch_embed.bias is not None
            nn.init.zeros_(self.patch_embed.bias)


class Block(nn.Module):
    """Pre-norm transformer block: attention, then a GELU MLP, each added to its input."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.dim, eps=1e-5)
        self.attn = Attention(config)
        self.norm2 = nn.LayerNorm(config.dim, eps=1e-5)
        self.fc1 = nn.Linear(config.dim, config.dim * config.mlp_ratio)
        self.fc2 = nn.Linear(config.dim * config.mlp_ratio, config.dim)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map (batch, patch, dim) to the same shape."""
        hidden = hidden + self.attn(self.norm1(hidden))
        return hidden + self.fc2(F.gelu(self.fc1(self.norm2(hidden))))


class Attention(nn.Module):
    """Multi-head self-attention over all patches."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.dim, 3 * config.dim)
        self.proj = nn.Linear(config.dim, config.dim)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map (batch, patch, dim) to the same shape."""
        qkv = self.qkv(hidden).unflatten(-1, (3, self.heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (batch, head, patch, head_dim)
        if query.device.type == "cpu" and query.dtype == torch.bfloat16:
            mixed = plain_attention(query, key, value)
        else:
            mixed = F.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).flatten(2))


def plain_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Compute the equation of ``scaled_dot_product_attention``; all (batch, head, patch, head_dim).

    On a CPU in bf16, forward and backward of the library's kernel take 3.7 times as long.
    """
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    return scores.softmax(-1) @ value


@functools.lru_cache(maxsize=32)
def sincos_positions(freq_patches: int, time_patches: int, dim: int) -> Tensor:
    """Make fixed 2-D positions: half of the dimensions encode time, the second half frequency.

    Returns:
        (freq_patches * time_patches, dim) float32 in [-1, 1], frequency-major.
    """
    time = _sincos(torch.arange(time_patches), dim // 2)  # (time_patch, dim / 2)
    freq = _sincos(torch.arange(freq_patches), dim // 2)  # (freq_patch, dim / 2)
    grid = torch.cat(
        [
            time[None].expand(freq_patches, -1, -1),
            freq[:, None].expand(-1, time_patches, -1),
        ],
        dim=-1,
    )
    return grid.flatten(0, 1)


def _sincos(place: Tensor, dim: int) -> Tensor:
    rates = torch.exp(-math.log(10_000.0) * torch.arange(dim // 2) / (dim // 2))
    angles = place[:, None] * rates[None]
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
