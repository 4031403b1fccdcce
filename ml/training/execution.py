"""One run from its first step to its last: state, record, checkpoints, tracking.

Before phase 1 the frontend is *measured* on training audio: the log-mel's floor, mean and
deviation, and the means of embeddings. Differs: the paper's frontend has fixed numbers
(``LogMelConfig``). Phase 2 takes over the numbers of its phase 1, and a phase 1 that starts from a
checkpoint those of its log-mel. Where that checkpoint is of phase 2, the phase 2 that follows goes
on from its predictor.

Under ``torchrun`` every rank trains and rank 0 writes.
"""

from __future__ import annotations

import functools
import itertools
import logging
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ml import kinds
from ml.artifacts import (
    MANIFEST_NAME,
    ArtifactError,
    DataLayout,
    fingerprint,
    git_revision,
    read_manifest,
)
from ml.audio.mel import LogMel, spectrum_vectors
from ml.labels.wordings import synonyms, wordings
from ml.models.pretrained import save_checkpoint
from ml.models.stem_jepa import StemJepa
from ml.plain import flat, jsonable
from ml.progress import ProgressBar
from ml.shards.folders import ShardFolder
from ml.shards.pairs import PairBatch, PairConfig
from ml.shards.reader import EmptySplitError, ShardPairs
from ml.training.batches import waveforms
from ml.training.checkpoints import (
    CheckpointWriter,
    go_on_from_phase_2,
    load_training_state,
    start_from_encoder,
    start_from_phase_1,
)
from ml.training.config import LoopConfig, TrainingConfig
from ml.training.cost import matmul_rate
from ml.training.distributed import from_rank_0, loader_processes, rank, world
from ml.training.loop import TrainState, build_state, train
from ml.training.models import CONTRASTIVE, UNTRAINED
from ml.training.run_folder import MetricsRecord, latest_checkpoint
from ml.training.tracking import RunTracker

_log = logging.getLogger(__name__)
ALGORITHM_VERSION = 2
"""Part of a run's identity; raised when the same configuration gives other weights."""
MEASURED_BATCHES = 8
"""Training batches that are looked at before the first step."""
FLOOR_QUANTILE = 0.05
"""The floor is this quantile of the mel power of sounding frames of training audio."""
SOUNDING = 1e-4
"""A frame sounds when its power is at least this share of the loudest frame's of its chunk."""
DEVIATION_MIN = 0.5
"""Of a band, in nepers of power (2 dB): one that carries nothing is not blown up to the others."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one run is made of."""

    layout: DataLayout
    config: TrainingConfig
    shards: list[ShardFolder]
    pairs: ShardPairs
    phase_1: Path | None
    """The checkpoint that it starts from; None: from random weights."""
    phase_2: Path | None = None
    """The phase 2 that it goes on from: of the model that its phase 1 was begun from."""
    loop: LoopConfig
    device: torch.device

    @functools.cached_property
    def phase_1_manifest(self) -> dict[str, Any]:
        """What the checkpoint says of itself; empty where there is none."""
        return {} if self.phase_1 is None else read_manifest(self.phase_1, kinds.MODEL)

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """What decides the weights."""
        identity: dict[str, Any] = {
            "algorithm": ALGORITHM_VERSION,
            "config": self.config,
            "shards": self.pairs.fingerprints,
            "phase_1": self.phase_1_manifest.get("model_id"),
        }
        # What a run does not have is not named: it is the run that it was before that counted.
        if self.phase_2 is not None:
            identity["phase_2"] = read_manifest(self.phase_2, kinds.MODEL)["model_id"]
        if self.pairs.same_songs:  # songs that are in two corpora
            identity["same_songs"] = self.pairs.same_songs
        if _has_wordings(self.config):
            identity["wordings"] = fingerprint(_wordings_of(self.pairs))
        return identity

    @functools.cached_property
    def folder(self) -> Path:
        """Its folder; its name is also its id in tracking."""
        config = self.config
        return self.layout.runs / f"{config.preset}-{config.size}-{fingerprint(self.identity)[:12]}"

    @property
    def is_finished(self) -> bool:
        """Whether it was trained to its end."""
        return (self.folder / "model" / MANIFEST_NAME).is_file()


def run_tags(run: Run) -> dict[str, str]:
    """Say what tracking can be searched by, besides the configuration."""
    encoder, pairs = run.pairs.label_encoder, run.pairs
    tags = {
        "phase": run.config.model.phase,
        "training_id": run.folder.name,
        "git_revision": git_revision(),
        "shards": " ".join(pairs.fingerprints),
        "label_encoder": f"{encoder['name']} {str(encoder['fingerprint'])[:16]}",
    }
    if run.phase_1 is not None:
        tags["phase1_run_id"] = run.phase_1_manifest.get("mlflow_run_id") or ""
    return tags


def execute_run(run: Run, tracker: RunTracker, tags: dict[str, str]) -> None:
    """Train a run to its end, from its last checkpoint if it has one, and write its model.

    Raises:
        NonFiniteLossError: the loss is not finite; a checkpoint from before it is saved.
        KeyboardInterrupt: asked to stop; a checkpoint is saved.
    """
    state = _initial_state(run)
    origin = _origin(run)
    if (latest := from_rank_0(latest_checkpoint(run.folder))) is not None:
        state.load_state_dict(load_training_state(latest))
        _log.info("%s: resumed at step %d", run.folder.name, state.step)
    if rank() != 0:
        _train(run, state, log=lambda _step, _metrics: None, save=lambda _state: None)
        return
    if run.config.preset == CONTRASTIVE and not (run.folder / "initial" / MANIFEST_NAME).is_file():
        # What it is compared with, also where it starts from another model.
        model = state.model if run.phase_1 is None else _untrained(run)
        untrained = origin | {"name": UNTRAINED}
        save_checkpoint(run.folder / "initial", model, run.config, origin=untrained)
    record = MetricsRecord(run.folder, from_step=state.step)
    tracker.start(flat(jsonable(run.config)), tags)
    try:
        _train_with_progress(run, state, origin, tracker, record)
    except BaseException as error:
        # Also for Ctrl-C: a tracker left running would send again what a resumed run sends.
        tracker.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    origin["mlflow_run_id"] = tracker.finish("RUNNING")
    save_checkpoint(run.folder / "model", state.model, run.config, origin=origin)
    tracker.finish()
    shutil.rmtree(run.folder / "checkpoints")


def _train_with_progress(
    run: Run,
    state: TrainState,
    origin: dict[str, Any],
    tracker: RunTracker,
    record: MetricsRecord,
) -> None:
    label, is_beside = f"training {run.folder.name}", run.loop.is_saving_beside
    with (
        ProgressBar(total=run.config.steps, done=state.step, label=label) as bar,
        CheckpointWriter(
            is_beside=run.device.type == "cuda" if is_beside is None else is_beside
        ) as writer,
    ):

        def log(step: int, metrics: dict[str, float]) -> None:
            record.append(step, metrics)
            tracker.ship()
            bar.update_to(step, metrics)

        _train(
            run,
            state,
            log=log,
            save=lambda s: _save(run, s, origin, writer),
            save_best=(lambda s: _save_best(run, s, origin, writer))
            if run.loop.keep_best
            else None,
            matmul_rate=matmul_rate(run.config, run.config.steps - state.step, run.device),
        )


def _train(run: Run, state: TrainState, **what: Any) -> None:
    train(
        state,
        run.pairs.batches(start=state.step),
        loop=run.loop,
        device=run.device,
        valid=_valid_batches(run),
        **what,
    )


def _initial_state(run: Run) -> TrainState:
    if run.phase_1 is None:
        model = _untrained(run)
    elif (model := _random_model(run)).predictor is None:
        start_from_encoder(model, run.phase_1)
        measure_means(model, _first_batches(run))
    else:
        start_from_phase_1(model, run.phase_1)
        if run.phase_2 is not None:
            go_on_from_phase_2(model, run.phase_2)
    if model.has_variance:
        measure_target_variance(model, _first_batches(run))
    if model.has_context_patches:
        model.begin_context_patches()
    if model.predictor is not None and model.predictor.config.is_condition_centred:
        vectors = np.stack(list(run.pairs.label_vectors().values()))
        model.predictor.condition_mean.copy_(torch.from_numpy(vectors.mean(0)))
    state = build_state(run.config, model)
    if _has_wordings(run.config):
        state.wordings = wording_vectors(run.pairs, run.layout)
    return state


def _has_wordings(config: TrainingConfig) -> bool:
    return config.model.predictor is not None and config.objective.wording_share > 0


def wording_vectors(pairs: ShardPairs, layout: DataLayout) -> dict[str, Tensor]:
    """Encode the ``wordings`` of every label that is trained with: seconds, once a run.

    Args:
        pairs: what is trained on, and by which encoder its conditions are.
        layout: of the home whose settings say where that encoder's files lie.

    Raises:
        ArtifactError: the encoder here is not the one that made the conditions, or lacks a file.
    """
    from ml.labels.encoders import label_encoder_of
    from ml.settings import load_settings

    made_by = pairs.label_encoder
    encoder = label_encoder_of(load_settings(layout.home), made_by["name"])
    if encoder.fingerprint != made_by["fingerprint"]:
        raise ArtifactError(
            f"the conditions of the shards come from label encoder {made_by['name']} "
            f"({made_by['fingerprint'][:12]}), here it is {encoder.fingerprint[:12]}; expected the "
            "same, to encode other words for the labels: set objective.wording_share=0, or make "
            "labels and shards anew"
        )
    texts = _wordings_of(pairs).items()
    return {label: torch.from_numpy(encoder.encode(found)) for label, found in texts}


def _wordings_of(pairs: ShardPairs) -> dict[str, tuple[str, ...]]:
    return {label: wordings(label) for label in pairs.training_labels}


def _untrained(run: Run) -> StemJepa:
    """Make what a run without a start begins with: random weights, measured statistics."""
    model = _random_model(run)
    measure_statistics(model, _first_batches(run))
    return model


def _random_model(run: Run) -> StemJepa:
    torch.manual_seed(run.config.seed)
    return StemJepa(run.config.model).to(run.device)


def _first_batches(run: Run) -> Iterator[PairBatch]:
    """Read whole batches on every rank: the same statistics whatever the number of ranks."""
    whole = run.pairs if world() == 1 else open_pairs(run.shards, run.config, "train", ranks=1)
    return itertools.islice(whole.batches(), MEASURED_BATCHES)


def _origin(run: Run) -> dict[str, Any]:
    pairs = run.pairs
    earlier = run.phase_1_manifest
    tracks = {(t["corpus"], t["track_id"]): t for t in earlier.get("training_tracks", [])}
    tracks |= {(t["corpus"], t["track_id"]): t for t in pairs.training_tracks}
    labels = set(earlier.get("training_labels", [])) | set(pairs.training_labels)
    if _has_wordings(run.config):
        labels |= {name for label in pairs.training_labels for name in synonyms(label)}
    return {
        "name": run.config.preset,
        "size": run.config.size,
        "seed": run.config.seed,
        "label_encoder": pairs.label_encoder,
        "training_tracks": [tracks[key] for key in sorted(tracks)],
        "training_labels": sorted(labels),
        "phase_1_model_id": earlier.get("model_id"),
        "run": run.folder.name,
        "shards": pairs.fingerprints,
    }


def _save(run: Run, state: TrainState, origin: dict[str, Any], writer: CheckpointWriter) -> None:
    folder = run.folder / "checkpoints"

    def remove_old() -> None:
        for old in sorted(folder.glob("step-*"))[: -run.loop.keep_last]:
            shutil.rmtree(old)

    writer.save(
        folder / f"step-{state.step:07d}",
        state.model,
        state.config,
        origin=origin,
        state=state.state_dict(),
        then=remove_old,
    )


def _save_best(
    run: Run, state: TrainState, origin: dict[str, Any], writer: CheckpointWriter
) -> None:
    chosen = origin | {"step": state.step, "valid_within_label_rank": state.best}
    writer.save(run.folder / "best", state.model, state.config, origin=chosen)


def _valid_batches(run: Run) -> list[PairBatch]:
    """Read the few batches of every validation; none where the valid split is empty."""
    try:
        pairs = open_pairs(run.shards, run.config, "valid")
    except EmptySplitError as error:
        _log.info("no validation: %s", error)
        return []
    return list(itertools.islice(pairs.batches(), run.loop.valid_batches))


@torch.no_grad()
def measure_statistics(model: StemJepa, batches: Iterable[PairBatch]) -> None:
    """Set the frontend's buffers, the running means and ``spectrum_mean`` from training batches.

    The floor, mean and deviation change only when the frontend's configuration says
    ``is_measured``.

    Args:
        model: freshly initialised; changed in place.
        batches: some training batches, mixed without random gains.
    """
    batches, log_mel = list(batches), model.log_mel
    if log_mel.config.is_measured:
        sides = (waveforms(batch, log_mel.floor.device) for batch in batches)
        measure_frontend(log_mel, (side for pair in sides for side in pair))
    measure_means(model, batches)


@torch.no_grad()
def measure_means(model: StemJepa, batches: Iterable[PairBatch]) -> None:
    """Set the running means and ``spectrum_mean`` from training batches.

    Running means start from the initial encoder, so that step 0 is a fair baseline; training
    forgets them.

    Args:
        model: of phase 1 at its start; changed in place.
        batches: some training batches, mixed without random gains.
    """
    spectra = []
    for batch in batches:
        mix, target = waveforms(batch, model.log_mel.floor.device)
        mels = model.log_mel(mix), model.log_mel(target)
        context, target_patches = (model.encoder(mel) for mel in mels)
        model.update_means(context=context.mean((1, 2)), target=target_patches)
        spectra.append(spectrum_vectors(mels[1]))
    model.spectrum_mean.copy_(torch.cat(spectra).mean(0))


@torch.no_grad()
def measure_frontend(log_mel: LogMel, waveforms: Iterable[Tensor]) -> None:
    """Set floor, mean and deviation of the log-mel from the frames of audio that sound.

    Silence counts for nothing: with it the floor falls to the level of a converter's noise, and the
    colour of that noise, which tells records apart, is seen as well as music.

    Args:
        log_mel: the frontend; changed in place.
        waveforms: each (batch, samples).
    """
    frames = torch.cat([_sounding_frames(log_mel.mel_power(rows)) for rows in waveforms])
    if not len(frames):
        return  # nothing but silence: the numbers of the configuration stay
    every = max(1, frames.numel() // 8_000_000)  # what quantile takes is limited
    log_mel.floor.copy_(torch.quantile(frames.flatten()[::every].double(), FLOOR_QUANTILE))
    log_mel.floor.clamp_(min=1e-10)
    rows = torch.log(frames + log_mel.floor)
    log_mel.mean.copy_(rows.mean(0))
    log_mel.deviation.copy_(rows.std(0).clamp(min=DEVIATION_MIN))


def _sounding_frames(power: Tensor) -> Tensor:
    """Take the sounding frames of (batch, mel_bin, frame): (sounding frame, mel_bin)."""
    loudness = power.sum(1)  # (batch, frame)
    loudest = loudness.amax(1, keepdim=True)
    return power.transpose(1, 2)[(loudness >= SOUNDING * loudest) & (loudest > 0)]


@torch.no_grad()
def measure_target_variance(model: StemJepa, batches: Iterable[PairBatch]) -> None:
    """Set ``target_variance`` about the ``target_mean`` that the model has.

    Args:
        model: of phase 2 at its start; changed in place.
        batches: some training batches.
    """
    device = model.target_mean.device
    targets = (model.log_mel(waveforms(batch, device)[1]) for batch in batches)
    spreads = [model.target_spread(model.target_patches(mel)) for mel in targets]
    model.target_variance.copy_(torch.stack(spreads).mean(0))


def _pair_config(config: TrainingConfig, split: str) -> PairConfig:
    """Leave out what is read for phase 1 alone, and in validation what is of training alone."""
    pairs, none = config.pairs, {"time_negatives": 0, "speed_negatives": 0}
    if split != "train":
        return replace(pairs, music_share=0.0, weights=None, semitones=0, **none)
    return pairs if config.model.phase == CONTRASTIVE else replace(pairs, **none)


def open_pairs(
    folders: list[ShardFolder],
    config: TrainingConfig,
    split: str,
    loop: LoopConfig | None = None,
    ranks: int | None = None,
    device: torch.device | None = None,
) -> ShardPairs:
    """Open this rank's rows of each batch; ``ranks`` 1: all rows.

    Validation keeps all labels, and takes of each corpus what there is.

    ``loop`` says how to read for ``device`` (default: a CPU); default: in this process, keeping
    nothing.
    """
    device = device or torch.device("cpu")
    return ShardPairs(
        folders,
        split=split,
        config=_pair_config(config, split),
        batch_size=config.batch_size,
        seed=config.seed,
        rank=0 if ranks == 1 else rank(),
        world=ranks or world(),
        workers=loader_processes(loop.workers, device) if loop else 0,
        is_pinned=device.type == "cuda",
        decoded_gb=loop.decoded_gb if loop else 0.0,
    )
