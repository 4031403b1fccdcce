"""The model as it is trained, saved and queried: frontend, encoder, target encoder, predictor.

One class for both phases (Riou et al., section II): without a predictor it is the contrastive
model of phase 1, with one it is the JEPA of phase 2.
"""

from __future__ import annotations

import copy
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ml import kinds
from ml.artifacts import ArtifactError, read_manifest, read_object
from ml.audio.activity import MIN_ACTIVE_S, ActivityConfig, active_intervals, active_starts
from ml.audio.mel import LogMel
from ml.labels.encoder import LabelEncoder
from ml.labels.encoders import build_label_encoder
from ml.labels.taxonomy import FOUR_CLASSES, four_class
from ml.models.config import StemJepaConfig
from ml.models.predictor import build_predictor
from ml.models.pretrained import CONFIG_NAME, WEIGHTS_NAME, pretrained_folder, save_pretrained
from ml.models.running_means import RunningMeans
from ml.models.vit import ViTEncoder
from ml.plain import dataclass_from, jsonable
from ml.tracks import MUSIC

Audio = str | Path | Tensor | np.ndarray | tuple[np.ndarray, int]
"""A file; (samples,) at the model's rate, full scale ±1; or such an array with its rate in Hz."""


class StemJepa(RunningMeans):
    """Encoder, and in phase 2 target encoder and predictor, with the running means they need."""

    def __init__(self, config: StemJepaConfig) -> None:
        super().__init__(config)
        self.manifest: dict[str, Any] = {}
        self.described: dict[str, Any] = {"model": jsonable(config)}
        self.stored_types: dict[str, torch.dtype] = {}
        self._encoder_of_labels: LabelEncoder | None = None
        self.log_mel = LogMel(config.log_mel)
        self.encoder = ViTEncoder(config.encoder)
        self.predictor = None if config.predictor is None else build_predictor(config.predictor)
        self.target_encoder = None if config.predictor is None else copy.deepcopy(self.encoder)
        if self.target_encoder is not None:
            self.target_encoder.requires_grad_(False)
        self.song_encoder = self.instrument_heads = None
        if self.has_song_part:
            self.song_encoder = copy.deepcopy(self.encoder).requires_grad_(False)
            dim = config.encoder.dim
            heads = {
                name: nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim))
                for name in ("stem", "query")
            }
            self.instrument_heads = nn.ModuleDict(heads)

    # As a folder that loads anywhere.

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        device: str = "cpu",
    ) -> StemJepa:
        """Load a model folder from here or from a hub, by the conventions of ``huggingface_hub``.

        Args:
            pretrained_model_name_or_path: a folder (of ``stems export``, ``save_pretrained``, any
                checkpoint), or ``owner/name`` on a hub.
            revision: branch, tag or commit there.
            token: for what is not public.
            cache_dir: where downloads are kept.
            local_files_only: download nothing.
            force_download: also what is kept already.
            device: where the model goes.

        Raises:
            ArtifactError: as ``load_model``; there is no such folder, the hub cannot be reached or
                has no such model.
        """
        folder = pretrained_folder(
            pretrained_model_name_or_path,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            force_download=force_download,
        )
        return load_model(folder, device)

    def save_pretrained(
        self, save_directory: str | Path, *, model_card_kwargs: Mapping[str, Any] | None = None
    ) -> None:
        """Write a folder that ``from_pretrained``, ``load_model`` and ``--model`` take.

        A checkpoint (``ml.models.pretrained``) with a card. Weights that are as they were loaded
        keep the model's id. The manifest names the tracks it was trained on, so that scores can
        leave them out.

        Args:
            save_directory: where; what is there is replaced only if it is an exported model.
            model_card_kwargs: what the card says beside the manifest (``card_text``).

        Raises:
            ArtifactError: something else lies there.
        """
        save_pretrained(
            Path(save_directory),
            self,
            self.described,
            {**self.manifest, "name": self.name},
            types=self.stored_types,
            facts=model_card_kwargs or {},
        )

    # What a checkpoint says of itself.

    @property
    def name(self) -> str:
        """The preset it was trained with (``contrastive``, ``film``, ``two-part``, …)."""
        return self.manifest.get("name", self.config.phase)

    @property
    def model_id(self) -> str:
        """Content fingerprint of the checkpoint it was loaded from."""
        return self.manifest.get("model_id", "unsaved")

    @property
    def phase(self) -> str:
        """``contrastive`` or ``jepa``."""
        return self.config.phase

    @property
    def dim(self) -> int:
        """Width of an embedding."""
        return self.config.encoder.dim * (2 if self.has_song_part else 1)

    @property
    def part_shares(self) -> tuple[float, ...]:
        """What the parts of a vector, equally wide, are worth in a cosine (``weighted_parts``)."""
        share = self.config.song_share
        return (share, 1 - share) if self.has_song_part else (1.0,)

    @property
    def condition_dim(self) -> int | None:
        """Width of a condition; None when the model takes none."""
        predictor = self.config.predictor
        if predictor is None or predictor.conditioning not in ("film", "concat"):
            return None
        return predictor.condition_dim

    @property
    def rate_hz(self) -> int:
        """Sample rate of waveforms."""
        return self.config.log_mel.rate_hz

    @property
    def chunk_s(self) -> float:
        """Length of a chunk in seconds."""
        return self.config.chunk_s

    @property
    def label_encoder(self) -> dict[str, Any]:
        """``name``, ``dim`` and ``fingerprint`` of the label encoder it was trained with."""
        return self.manifest.get("label_encoder", {})

    @property
    def training_tracks(self) -> list[dict[str, Any]]:
        """``{corpus, track_id, content_hash}`` of the tracks it has seen, phase 1 included."""
        return self.manifest.get("training_tracks", [])

    # Training.

    def target_patches(self, mel: Tensor) -> Tensor:
        """Encode the target of phase 2, before normalisation and without gradient.

        Args:
            mel: (batch, mel_bin, frame).

        Returns:
            (batch, freq_patch, time_patch, dim).
        """
        assert self.target_encoder is not None
        with torch.no_grad():
            return self.target_encoder(mel)

    def predict_patches(
        self, patches: Tensor, condition: Tensor | None, classes: Tensor | None
    ) -> Tensor:
        """Predict the target's patches from the context's (equation 2), before the L2 norm.

        Args:
            patches: (batch, freq_patch, time_patch, dim), of the encoder.
            condition: (batch, condition_dim), as ``Predictor`` takes it.
            classes: (batch,) index into ``FOUR_CLASSES``.

        Returns:
            (batch, patch, dim).
        """
        assert self.predictor is not None
        return self.predictor(self.normalise_context(patches), condition, classes)

    def instrument_of_stem(self, patches: Tensor) -> Tensor:
        """Map the encoder's patches (batch, freq_patch, time_patch, dim) to (batch, dim)."""
        assert self.instrument_heads is not None
        mean = patches.flatten(1, 2).float().mean(1) - self.target_mean.mean((0, 1))
        return self.instrument_heads["stem"](mean)

    def instrument_asked(self, predicted: Tensor) -> Tensor:
        """Map predicted patches (batch, patch, dim) to (batch, dim)."""
        assert self.instrument_heads is not None
        return self.instrument_heads["query"](F.normalize(predicted.float(), dim=-1).mean(1))

    # Embedding.

    @torch.inference_mode()
    def gallery_vectors(self, mel: Tensor) -> Tensor:
        """Embed stems, one vector per chunk.

        Args:
            mel: (batch, mel_bin, frame), from ``log_mel``.

        Returns:
            (batch, dim) float32: the mean over patches of N(patch), not of unit norm. Phase 1: the
            pooled embedding, minus ``target_mean`` where it was trained so (``is_centred``). With
            ``song_share``: see ``with_song``.
        """
        if self.instrument_heads is not None:
            instrument = self.instrument_of_stem(self.encoder(mel))
            return self.with_song(instrument, mel, is_mix=False)
        if self.target_encoder is None:
            return self._pooled(self.encoder, mel, self.target_mean.mean((0, 1)))
        patches = self.normalise_target(self.target_patches(mel))
        return F.normalize(patches, dim=-1).mean(1)

    @torch.inference_mode()
    def query_vectors(
        self, mel: Tensor, condition: Tensor | None = None, classes: Tensor | None = None
    ) -> Tensor:
        """Predict the embeddings of the stems that a mix lacks, one per chunk.

        Args:
            mel: (batch, mel_bin, frame) of the mix.
            condition: (batch, condition_dim), the instrument; ignored in phase 1.
            classes: (batch,) index into ``FOUR_CLASSES``, for conditioning ``class``.

        Returns:
            (batch, dim) float32, not of unit norm.
        """
        if self.predictor is None:
            return self._pooled(self.encoder, mel, self.context_mean)
        predicted = self.predict_patches(self.encoder(mel), condition, classes)
        if self.instrument_heads is not None:
            instrument = self.instrument_asked(predicted)
            return self.with_song(instrument, mel, is_mix=True)
        return F.normalize(predicted.float(), dim=-1).mean(1)

    @torch.no_grad()
    def with_song(self, instrument: Tensor, mel: Tensor, *, is_mix: bool) -> Tensor:
        """Put the song part before vectors of the instrument.

        The cosine of two such vectors is ``song_share`` times the cosine of their song parts plus
        the rest times that of their instrument parts: one search in one table serves both. Means
        over chunks are weighted anew: what a stem plays is nearly the same in all its chunks and
        which song it is for is not, so that the song part would come out of a mean shorter.

        Args:
            instrument: (batch, encoder dim), of ``instrument_asked`` or ``instrument_of_stem``.
            mel: (batch, mel_bin, frame), what they were made of.
            is_mix: it is a mix, else stems.

        Returns:
            (batch, dim), of unit norm.
        """
        assert self.song_encoder is not None
        mean = self.song_context_mean if is_mix else self.song_target_mean
        song = self._pooled(self.song_encoder, mel, mean)
        return weighted_parts(torch.cat([song, instrument.float()], dim=-1), self.part_shares)

    def _pooled(self, encoder: ViTEncoder, mel: Tensor, mean: Tensor) -> Tensor:
        """Average patches, minus a running mean as phase 1 compares them: (batch, dim) float32."""
        rows = encoder(mel).flatten(1, 2).float().mean(1)
        return rows - mean if self.config.is_centred else rows

    @torch.inference_mode()
    def embed_stem(self, stem: Audio) -> Tensor:
        """Embed a whole stem as it stands in the gallery.

        Args:
            stem: a file or its samples (``Audio``).

        Returns:
            (dim,) float32, unit norm.

        Raises:
            AudioError: the file is missing or cannot be decoded.
            ValueError: the stem is silent or shorter than 0.25 s, or no array of samples.
        """
        chunks = self._active_chunks(stem)
        rows = torch.cat([self.gallery_vectors(self.log_mel(chunk[None])) for chunk in chunks])
        return weighted_parts(rows.mean(0), self.part_shares)

    @torch.inference_mode()
    def predict(self, mix: Audio, instrument: str) -> Tensor:
        """Predict the embedding of the stem that would fit with a mix (``embed_stem``'s space).

        As a query of a home (``ml.retrieval.queries.mix``), but from 0.25 s on instead of 1 s, by
        the whole of a long mix, and of one file or mono array.

        Args:
            mix: a file or its samples (``Audio``).
            instrument: what the stem should play, free text; "music": anything.

        Returns:
            (dim,) float32, unit norm.

        Raises:
            AudioError: the file is missing or cannot be decoded.
            ValueError: the mix is silent or shorter than 0.25 s, no array of samples, or the text
                is empty.
        """
        chunks = self._active_chunks(mix)
        condition, classes = self._condition(instrument)
        rows = [self.query_vectors(self.log_mel(c[None]), condition, classes) for c in chunks]
        mean = torch.cat(rows).mean(0)
        if instrument == MUSIC:
            mean = without_instrument(mean, self.part_shares)
        return weighted_parts(mean, self.part_shares)

    def _condition(self, instrument: str) -> tuple[Tensor | None, Tensor | None]:
        device = self.target_mean.device
        classes = torch.tensor([FOUR_CLASSES.index(four_class([instrument]))], device=device)
        if self.condition_dim is None:
            return None, classes
        if self._encoder_of_labels is None:
            self._encoder_of_labels = build_label_encoder(self.label_encoder["name"])
        encoder = self._encoder_of_labels
        if encoder.fingerprint != self.label_encoder["fingerprint"]:
            raise ArtifactError(
                f"the model was trained with label encoder {self.label_encoder}, but here "
                f"{encoder.name} has fingerprint {encoder.fingerprint}; install the same version"
            )
        return torch.from_numpy(encoder.encode([instrument])).to(device), classes

    def _active_chunks(self, audio: Audio) -> list[Tensor]:
        samples = self._samples(audio)
        intervals = active_intervals(samples, self.rate_hz, ActivityConfig())
        size = round(self.chunk_s * self.rate_hz)
        starts = active_starts(intervals, len(samples), size, self.rate_hz)
        if not starts:
            raise ValueError(
                f"the waveform ({len(samples) / self.rate_hz:.2f} s) is silent or too short; "
                f"expected at least {MIN_ACTIVE_S} s of sound at {self.rate_hz} Hz"
            )
        chunks = [torch.from_numpy(samples[start : start + size]) for start in starts]
        return [chunk.to(self.target_mean.device) for chunk in chunks]

    def _samples(self, audio: Audio) -> np.ndarray:
        from ml.audio.files import read_audio, resample

        if isinstance(audio, (str, Path)):
            return read_audio(audio, rate_hz=self.rate_hz)
        array, from_hz = audio if isinstance(audio, tuple) else (audio, self.rate_hz)
        samples = np.asarray(array, dtype=np.float32)
        if samples.ndim != 1:
            raise ValueError(f"the waveform has shape {samples.shape}, expected (samples,)")
        if not np.isfinite(samples).all():
            raise ValueError("the waveform holds NaN or infinite samples; export it again")
        if from_hz < 1:
            raise ValueError(f"the waveform has a rate of {from_hz} Hz; expected 1 or more")
        return resample(samples, from_hz, self.rate_hz)


def weighted_parts(rows: Tensor, shares: Sequence[float]) -> Tensor:
    """Give the parts of vectors their weight, so that a cosine is the weighted sum of theirs.

    Args:
        rows: (…, dim), parts of equal width side by side; a part that is zero stays zero.
        shares: of each part, with the sum 1; (1.0,): a vector is one part.

    Returns:
        (…, dim) of unit norm.
    """
    weights = rows.new_tensor(shares).sqrt()[:, None]
    parts = F.normalize(rows.unflatten(-1, (len(shares), -1)), dim=-1) * weights
    return F.normalize(parts.flatten(-2), dim=-1)


def without_instrument(rows: Tensor, shares: Sequence[float]) -> Tensor:
    """Keep the song part of query vectors (…, dim) alone, where there are parts.

    It is the answer to "any music": Differs: the instrument part of a query for "music" is one that
    training has hardly asked for, and finds worse than chance.
    """
    if len(shares) == 1:
        return rows
    song = torch.zeros_like(rows)
    width = rows.shape[-1] // len(shares)
    song[..., :width] = rows[..., :width]
    return song


def load_model(path: str | Path, device: str = "cpu") -> StemJepa:
    """Load a checkpoint folder for embedding and queries.

    With a song part no vector is the target encoder's: such a checkpoint may come without it.

    Args:
        path: the folder with ``config.json``, ``model.safetensors`` and ``manifest.json``.
        device: where the model goes.

    Raises:
        ArtifactError: a file is missing or damaged, or weights do not fit the configuration.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    manifest = read_manifest(path, kinds.MODEL)
    described = read_object(path / CONFIG_NAME)
    try:
        model = StemJepa(dataclass_from(StemJepaConfig, described["model"]))
    except (
        ArithmeticError,
        AttributeError,
        KeyError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise ArtifactError(
            f"{path / CONFIG_NAME} describes no model ({error!r}); train again with: stems train"
        ) from None
    weights = path / WEIGHTS_NAME
    try:
        stored = load_file(weights, device="cpu")
        if model.has_song_part and not any(name.startswith("target_encoder.") for name in stored):
            model.target_encoder = None
        model.load_state_dict(stored)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ArtifactError(
            f"{weights} does not hold the weights that {CONFIG_NAME} beside it describes: "
            f"{textwrap.shorten(str(error), 300, placeholder=' …')}; make it again with: "
            f"{kinds.MODEL.remedy(path)}"
        ) from None
    model.manifest, model.described = manifest, described
    model.stored_types = {name: tensor.dtype for name, tensor in stored.items()}
    return model.to(device).eval().requires_grad_(False)
