"""``stems train``: one row of Table I at a size, on the shards of some corpora.

``stems export``: a model as a folder for others. ``stems import-stem-jepa``: a checkpoint of the
predecessor's public code as a model of ours.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml.cli.options import add_device, examples
from ml.settings import Settings, TrainingSettings

if TYPE_CHECKING:
    from ml.training.runs import RunOptions


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the verbs ``train``, ``export`` and ``import-stem-jepa``."""
    _add_train(verbs)
    _add_export(verbs)
    _add_import(verbs)


def _add_train(verbs: argparse._SubParsersAction) -> None:
    parser = verbs.add_parser(
        "train",
        description="Train one row of Table I. The same configuration, seed, shards and phase 1 "
        "name the same run: a finished one is reused, an interrupted one resumed. On several GPUs: "
        "torchrun --standalone --nproc-per-node=N -m ml.cli.main train …. 'stems train sync RUN' "
        "sends MLflow what it missed of a run while it was down.",
        epilog=examples(
            "stems train --dry-run",
            "stems train --preset film --corpora demo --seed 1",
            "stems train --set steps=2000 optimizer.learning_rate=3e-4",
            "stems train --from starter --corpora mine && stems train --corpora mine",
        ),
    )
    parser.add_argument(
        "sync", nargs="*", metavar="sync RUN", help="send the record of a run to MLflow, not train"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print parameters, work, memory and hours; no training",
    )
    parser.add_argument(
        "--preset",
        default=None,
        help="contrastive (phase 1), class, clap, pretrained, film, film-nce, two-part "
        "(default: two-part)",
    )
    parser.add_argument(
        "--size", default=None, help="tiny, small or paper (default: training.size)"
    )
    parser.add_argument(
        "--seed", type=int, default=None, help="of all draws (default: training.seed)"
    )
    parser.add_argument(
        "--corpora",
        nargs="+",
        action="extend",
        metavar="NAME",
        help="corpora with shards (default: training.corpora)",
    )
    parser.add_argument(
        "--set",
        dest="overrides",
        nargs="*",
        action="extend",
        default=[],
        metavar="FIELD=VALUE",
        help="configuration by dotted field, e.g. optimizer.learning_rate=3e-4",
    )
    parser.add_argument(
        "--from",
        dest="start",
        metavar="MODEL",
        help="model that training begins with: phase 1 with its encoder and its log-mel as it was "
        "measured, the phase 2 that follows with its predictor (default: random weights); or phase "
        "1 that phase 2 starts from (else the one that the same options train); alone it means "
        "--preset contrastive",
    )
    parser.add_argument(
        "--resume",
        metavar="RUN",
        help="go on with this folder of the runs as it was begun, whatever the settings are now; "
        "other options may be left out, and are refused where they differ",
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes that decode audio (default: training.workers, else on a GPU the cores but "
        "one, on a CPU none)",
    )
    add_device(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Train, forecast, or send a record."""
    if args.sync:
        return _sync(args.sync, settings)
    training = settings.training.model_copy(
        update={
            "corpora": tuple(args.corpora or settings.training.corpora),
            "size": args.size or settings.training.size,
            "seed": settings.training.seed if args.seed is None else args.seed,
            "overrides": settings.training.overrides | parse_overrides(args.overrides),
            "workers": settings.training.workers if args.workers is None else args.workers,
        }
    )
    if args.resume:
        return _resume(args, settings, training)
    args.preset = args.preset or ("contrastive" if args.start else "two-part")
    return (_forecast if args.dry_run else _train)(args, settings, training)


def _train(args: argparse.Namespace, settings: Settings, training: TrainingSettings) -> int:
    from ml.device import choose_device
    from ml.training.runs import train_preset
    from ml.training.tracking import mlflow_tracker

    artifact = train_preset(
        args.preset,
        layout=settings.layout,
        device=choose_device(args.device),
        tracker=mlflow_tracker(settings),
        **_options(args, training),
    )
    print(f"{'reused' if artifact.reused else 'trained'}: {artifact.path}")
    return 0


def _options(args: argparse.Namespace, training: TrainingSettings) -> RunOptions:
    from ml.training.runs import run_options

    options = run_options(training, args.preset)
    return {**options, "start": args.start or options.get("start")}


def _resume(args: argparse.Namespace, settings: Settings, training: TrainingSettings) -> int:
    from ml.device import choose_device
    from ml.training.runs import loop_config, resume_run
    from ml.training.tracking import mlflow_tracker

    if args.dry_run:
        raise ValueError(
            "--dry-run --resume: expected one of them; a run says how far it is itself"
        )
    if args.start:
        raise ValueError("--from --resume: expected one of them; a run goes on from where it is")
    options = {name: getattr(args, name) for name in ("preset", "size", "seed", "corpora")}
    artifact = resume_run(
        args.resume,
        layout=settings.layout,
        corpora=settings.training.corpora,
        options={name: value for name, value in options.items() if value is not None},
        overrides=parse_overrides(args.overrides),
        loop=loop_config(training),
        device=choose_device(args.device),
        tracker=mlflow_tracker(settings),
    )
    print(f"{'finished already' if artifact.reused else 'resumed'}: {artifact.path}")
    return 0


def _forecast(args: argparse.Namespace, settings: Settings, training: TrainingSettings) -> int:
    from ml.device import choose_device
    from ml.training.cost import device_gb
    from ml.training.forecast import forecast_training
    from ml.training.runs import open_run

    device, options = choose_device(args.device), _options(args, training)
    run = open_run(args.preset, layout=settings.layout, device=device, is_forecast=True, **options)
    config, forecast = run.config, forecast_training(run.config, run.pairs, device=device)
    cost, memory_gb = forecast.cost, device_gb(device)
    needed_gb = cost.state_gb + cost.activations_gb
    again_gb = cost.state_gb + cost.recomputed_gb
    advice = f", about {again_gb:.2g} GB where a GPU has less and blocks are computed twice"
    if memory_gb and not cost.fits(memory_gb):
        advice += f" (so here, with {memory_gb:.0f} GB)"
    print(
        f"{args.preset} at size {training.size}: {cost.parameters / 1e6:.2f}M parameters learned",
        f"a step of {config.batch_size} pairs: {cost.flops / 1e12:.3g} TFLOP, about "
        f"{needed_gb:.2g} GB ({cost.activations_gb:.2g} GB activations){advice}",
        f"{forecast.segments} segments, {forecast.steps_per_epoch} steps an epoch, "
        f"{forecast.steps} steps",
        f"measured on {device.type}: {forecast.flops_per_s / 1e12:.3g} TFLOP/s, "
        f"{forecast.compute_s:.3g} s computing and {forecast.loading_s:.3g} s loading a step, "
        f"with {run.pairs.workers or 'no'} processes that load",
        f"{forecast.hours:.2g} h in all",
        sep="\n",
    )
    return 0


def _sync(words: list[str], settings: Settings) -> int:
    from ml.training.tracking import sync_run

    if len(words) != 2 or words[0] != "sync":
        raise ValueError(f"{' '.join(words)!r}: expected nothing, or: sync RUN")
    folder = settings.layout.runs / words[1]
    run_id, lines = sync_run(
        folder, uri=settings.tracking_uri, experiment=settings.tracking.experiment
    )
    print(f"{folder.name}: {lines} lines are in MLflow run {run_id}")
    return 0


def parse_overrides(pairs: list[str]) -> dict[str, Any]:
    """Read ``FIELD=VALUE`` pairs; values are JSON where they can be, else text.

    Raises:
        ValueError: a pair without ``=``.
    """
    overrides: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise ValueError(f"--set {pair!r}: expected FIELD=VALUE")
        try:
            overrides[name] = json.loads(text)
        except ValueError:
            overrides[name] = text
    return overrides


def _add_export(verbs: argparse._SubParsersAction) -> None:
    parser = verbs.add_parser(
        "export",
        description="Write a model as a folder that loads anywhere: config.json, manifest.json, "
        "model.safetensors and a card with what is known of its training and scores. Whatever "
        "takes a model takes the folder; StemJepa.from_pretrained loads it, from a hub too. The "
        "manifest names the tracks it was trained on.",
        epilog=examples(
            "stems export two-part models/two-part    # then: hf upload OWNER/NAME models/two-part"
        ),
    )
    parser.add_argument("model", metavar="MODEL", help="a name, a run, a folder, an id, a hub's")
    parser.add_argument(
        "out", type=Path, metavar="DIR", help="the folder to write; only an export is replaced"
    )
    parser.set_defaults(run=run_export)


def run_export(args: argparse.Namespace, settings: Settings) -> int:
    """Write a model as a folder for others."""
    from ml.training.export import export_model

    made = export_model(settings, args.model, args.out)
    print(f"{made.path}: model {made.fingerprint}, {made.summary['n_bytes']:,d} bytes")
    return 0


def _add_import(verbs: argparse._SubParsersAction) -> None:
    parser = verbs.add_parser(
        "import-stem-jepa",
        description="Read the encoder, the target encoder and the class predictor of a Lightning "
        "checkpoint of the public Stem-JEPA code and write a model folder that loads like ours. "
        "Nothing in the file is executed.",
        epilog=examples("stems import-stem-jepa last.ckpt models/stem-jepa"),
    )
    parser.add_argument("checkpoint", type=Path, metavar="CKPT", help="the Lightning file")
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to write (new)")
    parser.add_argument(
        "--heads", type=int, default=None, help="attention heads (default: one per 64 dimensions)"
    )
    parser.set_defaults(run=run_import)


def run_import(args: argparse.Namespace, settings: Settings) -> int:  # noqa: ARG001 - the verb's shape
    """Read a foreign checkpoint and write a model folder."""
    from ml.models.predecessor import NAME, read_predecessor
    from ml.models.pretrained import save_checkpoint

    if args.out.exists():
        raise ValueError(f"{args.out} exists already; give a folder that is not there yet")
    model, config = read_predecessor(args.checkpoint, heads=args.heads)
    # What it was trained on is not in the file: evaluation cannot leave those tracks out.
    origin = {"name": NAME, "label_encoder": {}, "training_tracks": [], "training_labels": []}
    manifest = save_checkpoint(args.out, model, config, origin=origin)
    size = config.model.encoder
    print(
        f"{args.out}: model {manifest['model_id']}, {size.layers} layers of {size.dim} dimensions, "
        f"{size.heads} heads, chunks of {config.model.chunk_s:g} s; its training tracks are unknown"
    )
    return 0
