"""What the user can set, and where each value came from.

Precedence: defaults here < ``STEMS_HOME/config.yaml`` < environment (``STEMS_TRAINING__SEED=1``)
< command line or launchpad. Paths are relative to ``STEMS_HOME``. A *section* is one block of
``config.yaml`` with its defaults; what its values mean to users is told in the template of that
file, ``pipelines/config.yaml``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)

from ml.artifacts import DataLayout
from ml.metrics import PROMOTING
from ml.plain import did_you_mean, flat
from ml.tracks import NO_STEMS, Conditioning, Kind
from ml.yaml_file import YamlFileError, parse_yaml

HOME_VARIABLE = "STEMS_HOME"
_CORPUS_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def check_corpus_name(name: str) -> str:
    """Return the name of a corpus, which becomes a folder's.

    Raises:
        ValueError: it would lead elsewhere or cannot be written; says what is expected.
    """
    if not _CORPUS_NAME.fullmatch(name):
        raise ValueError(
            f"corpus name {name[:40]!r} is no folder name; expected letters, digits and . _ -, at "
            "most 100, a letter or digit first"
        )
    return name


CorpusName = Annotated[str, AfterValidator(check_corpus_name)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class SettingsError(ValueError):
    """A setting is unknown or has a wrong value."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CorpusSettings(_Section):
    """One corpus: where it lies and how it is laid out."""

    kind: Kind
    root: Path
    options: dict[str, Any] = Field(default_factory=dict)


class LabelEncoderSettings(_Section):
    """What turns an instrument in words into a condition.

    ``minilm``, ``clap``, or what an installed package brings (``ml.labels.encoders``). Paths are of
    CLAP; empty: what ``stems labels fetch`` puts under ``models/clap``.
    """

    name: str = "minilm"
    checkpoint: Path | None = None
    tokenizer: Path | None = None


class ActivitySettings(_Section):
    """When a stem sounds, for what is stored: the fields of ``ml.audio.activity``."""

    frame_s: float = Field(default=0.05, gt=0)
    on_db: float = -50.0
    off_db: float = -60.0
    min_active_s: float = Field(default=0.1, ge=0)
    min_silence_s: float = Field(default=0.3, ge=0)


class ShardSettings(_Section):
    """How training audio is stored, and where training reads it (empty: where it is built)."""

    segment_s: float = Field(default=16.0, ge=4, le=120)
    payload: Literal["flac", "pcm16"] = "flac"
    activity: ActivitySettings = ActivitySettings()
    uri: str | None = Field(default=None, min_length=1)
    cache_gb: float = Field(default=50.0, gt=0)


class MidiSettings(_Section):
    """What is kept of the audio that corpora of kind ``midi`` render."""

    keep_gb: float = Field(default=50.0, ge=0)


class ComputeSettings(_Section):
    """Who renders, makes shards, embeds: a Dask cluster, or (empty) processes of this machine."""

    dask_scheduler: str | None = Field(default=None, min_length=1)


class TrainingSettings(_Section):
    """What is trained on what."""

    corpora: tuple[str, ...] = ("demo",)
    weights: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        default_factory=dict
    )
    presets: tuple[str, ...] = ("two-part", "film")
    size: Literal["tiny", "small", "paper"] = "tiny"
    seed: Seed = 0
    start: str | None = Field(default=None, min_length=1)
    phase_1: str | None = Field(default=None, min_length=1)
    processes: int = Field(default=0, ge=0)
    workers: int | None = Field(default=None, ge=0)
    overrides: dict[str, Any] = Field(default_factory=dict)


class EvaluationSettings(_Section):
    """How scores are computed."""

    protocols: tuple[Literal["default", "predecessor", "paper"], ...] = Field(
        default=("default",), min_length=1
    )
    splits: tuple[Literal["train", "valid", "test"], ...] | None = Field(default=None, min_length=1)
    conditionings: tuple[Conditioning, ...] = Field(default=("fine",), min_length=1)
    bootstrap_resamples: int = Field(default=1000, ge=100)
    seed: Seed = 0


class BeatSettings(_Section):
    """What beat probes are trained and scored on; without corpora there are none.

    The default is demo songs, in a home that has no corpus ``demo`` none.
    """

    corpora: tuple[str, ...] = ("demo",)
    heldout: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    layers: tuple[int, ...] = Field(default=(-2, -1), min_length=1)
    seed: Seed = 0

    @property
    def scored(self) -> tuple[str, ...]:
        """All corpora whose beats are tracked, those that probes are trained on first."""
        return tuple(dict.fromkeys((*self.corpora, *self.heldout)))

    @model_validator(mode="after")
    def _check_corpora(self) -> BeatSettings:
        if self.heldout and not self.corpora:
            raise ValueError("heldout needs probes: name corpora that these are trained on")
        return self


class LanceDbSettings(_Section):
    """Where the tables that queries search lie; empty: under ``STEMS_HOME/lancedb``."""

    uri: str | None = Field(default=None, min_length=1)


def _check_metric(name: str) -> str:
    if name not in PROMOTING:
        raise ValueError(f"expected one of: {', '.join(PROMOTING)}")
    return name


class PromotionSettings(_Section):
    """When a model becomes the one that queries use: ``ml.retrieval.champion.promotion``."""

    corpora: tuple[str, ...] = ()
    metric: Annotated[str, AfterValidator(_check_metric)] = "recall@10"
    conditioning: Conditioning = "fine"
    tolerance: float = Field(default=1.0, ge=0)
    requires_mix: bool = True
    gallery: tuple[str, ...] = ()
    registered_model: str = Field(default="stem-jepa", min_length=1)


class AutomationSettings(_Section):
    """When everything is made anew without anybody asking; both ways are off at first."""

    cron: str = "0 2 * * 6"
    timezone: str = "UTC"
    min_new_hours: float = Field(default=1.0, ge=0)
    settled_after_s: float = Field(default=60.0, ge=0)


class TrackingSettings(_Section):
    """Where MLflow keeps its records; empty: a database under ``STEMS_HOME/mlflow``."""

    uri: str | None = None
    experiment: str = "stems"


class DemoSettings(_Section):
    """The synthetic corpus that ``make demo`` builds."""

    seed: Seed = 0
    train_songs: int = Field(default=400, ge=2)
    heldout_songs: int = Field(default=60, ge=2)
    heldout_s: float = Field(default=30.0, ge=8, le=600)


def demo_corpora() -> dict[str, CorpusSettings]:
    """Return the corpora of a home that nobody has configured."""
    return {
        name: CorpusSettings(kind="demo", root=Path("corpora") / name)
        for name in ("demo", "demo-plain", "demo-swapped")
    }


class Settings(BaseSettings):
    """All settings of one home."""

    model_config = SettingsConfigDict(
        env_prefix="STEMS_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    home: Path
    corpora: dict[CorpusName, CorpusSettings] = Field(default_factory=demo_corpora)
    demo: DemoSettings = DemoSettings()
    label_encoder: LabelEncoderSettings = LabelEncoderSettings()
    shards: ShardSettings = ShardSettings()
    midi: MidiSettings = MidiSettings()
    compute: ComputeSettings = ComputeSettings()
    training: TrainingSettings = TrainingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    beats: BeatSettings = BeatSettings()
    lancedb: LanceDbSettings = LanceDbSettings()
    promotion: PromotionSettings = PromotionSettings()
    automation: AutomationSettings = AutomationSettings()
    tracking: TrackingSettings = TrackingSettings()

    @model_validator(mode="before")
    @classmethod
    def _probe_what_is_there(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Train no beat probes where nothing else was said and the home has no demo songs."""
        corpora, beats = values.get("corpora"), values.get("beats", {})
        if isinstance(beats, dict) and isinstance(corpora, dict) and "demo" not in corpora:
            values = {**values, "beats": {"corpora": (), **beats}}
        return values

    @property
    def layout(self) -> DataLayout:
        """Where everything lies below this home."""
        return DataLayout(
            home=self.home,
            shards_uri=self.shards.uri,
            shard_cache_gb=self.shards.cache_gb,
            rendered_gb=self.midi.keep_gb,
            lancedb_uri=self.lancedb.uri,
        )

    @property
    def corpora_with_stems(self) -> tuple[str, ...]:
        """The corpora that retrieval is about."""
        return tuple(name for name, one in self.corpora.items() if one.kind not in NO_STEMS)

    @property
    def build_uri(self) -> str | None:
        """Where a cluster puts shards: ``shards.uri`` if that is a URL, else into the home."""
        uri = self.shards.uri
        return uri if self.compute.dask_scheduler and uri and "://" in uri else None

    @property
    def tracking_uri(self) -> str:
        """MLflow's store."""
        return self.tracking.uri or f"sqlite:///{self.layout.mlflow / 'mlflow.db'}"

    def beat_corpora(self) -> tuple[str, ...]:
        """Return the corpora that beat probes are trained on.

        Raises:
            SettingsError: there are none.
        """
        if not self.beats.corpora:
            raise SettingsError(
                f"beats.corpora in {self.layout.config_path} is empty; name corpora there that "
                "probes can be trained on, of kind demo or beats"
            )
        return self.beats.corpora

    def corpus(self, name: str) -> CorpusSettings:
        """Return the settings of a corpus, its root made absolute.

        Raises:
            SettingsError: no corpus has this name.
        """
        if name not in self.corpora:
            known = ", ".join(sorted(self.corpora))
            raise SettingsError(
                f"corpus {name!r} is not in {self.layout.config_path}"
                f"{did_you_mean(name, self.corpora)}; known corpora: {known}; "
                f"add it there under 'corpora:' or with: stems corpus add {name} KIND ROOT"
            )
        corpus = self.corpora[name]
        options = corpus.options
        if corpus.kind == "midi":  # made here, so its audio lies here
            options = {"audio": str(self.layout.corpora / name)} | options
        root = self.home / corpus.root.expanduser()
        return corpus.model_copy(update={"root": root, "options": options})


def default_home() -> Path:
    """Return ``STEMS_HOME`` from the environment, or ``./data``."""
    return Path(os.environ.get(HOME_VARIABLE) or "data").expanduser().resolve()


def existing_home(home: Path | None = None) -> Path:
    """Return the home that is meant, which must be there: a typo is no empty home.

    Args:
        home: as of ``load_settings``.

    Raises:
        SettingsError: it is no folder; names the folders that lie beside it.
    """
    by_default = HOME_VARIABLE if os.environ.get(HOME_VARIABLE) else "the default"
    origin = "" if home else f" ({by_default})"
    home = (home or default_home()).expanduser().resolve()
    if home.is_dir():
        return home
    if home.exists():
        raise SettingsError(f"home {home}{origin} is a file, expected a folder; name another")
    above = next(folder for folder in home.parents if folder.is_dir())
    beside = sorted(x.name for x in above.iterdir() if x.is_dir() and not x.name.startswith("."))
    raise SettingsError(
        f"home {home}{origin} does not exist{did_you_mean(home.name, beside)}; {above} has the "
        f"folders: {', '.join(beside[:8]) or 'none'}{' …' if len(beside) > 8 else ''}; name one "
        f"with --home or {HOME_VARIABLE}, or begin this one with: stems --home {home} demo"
    )


def load_settings(home: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Load the settings of a home.

    Args:
        home: ``STEMS_HOME``; default: the environment variable, else ``./data``.
        overrides: nested values that win over file and environment.

    Raises:
        SettingsError: an unknown key or a wrong value; names the key, the value and the file.
    """
    home = (home or default_home()).expanduser().resolve()
    config_path = DataLayout(home=home).config_path
    try:
        return _settings_class(config_path)(home=home, **dict(overrides or {}))
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in e['loc'])} = {e.get('input')!r}: {e['msg']}"
            for e in error.errors()
        )
        raise SettingsError(
            f"settings are wrong ({config_path}, STEMS_… variables or options): {problems}"
        ) from None
    except YamlFileError as error:
        raise SettingsError(str(error)) from None


class _ConfigFile(YamlConfigSettingsSource):
    """The home's ``config.yaml``, read with the limits of ``ml.yaml_file``."""

    def _read_file(self, file_path: Any) -> dict[str, Any]:
        return parse_yaml(Path(file_path).read_bytes(), Path(file_path))


def _settings_class(config_path: Path) -> type[Settings]:
    class HomeSettings(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic's signature
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, _ConfigFile(settings_cls, config_path)

    return HomeSettings


def explain_settings(settings: Settings) -> list[tuple[str, Any, str]]:
    """List each value as (dotted key, value, where it came from: file, environment, default)."""
    config_path = settings.layout.config_path
    kind = type(settings)
    from_file = flat(_ConfigFile(kind, config_path)())
    from_environment = flat(EnvSettingsSource(kind)())
    defaults = flat(InitSettingsSource(kind, Settings(home=settings.home).model_dump())())
    rows = []
    for key, value in sorted(flat(settings.model_dump(mode="json")).items()):
        if key in from_environment:
            source = f"environment STEMS_{key.replace('.', '__').upper()}"
        elif key in from_file:
            source = str(config_path)
        else:
            source = "default" if key in defaults else "option"
        rows.append((key, value, source))
    return rows
