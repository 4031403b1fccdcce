"""What the user can set, and where each value came from.

Precedence: defaults here < ``STEMS_HOME/config.yaml`` < environment (``STEMS_TRAINING__SEED=1``)
< command line or launchpad. Paths are relative to ``STEMS_HOME``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)

from ml.artifacts import DataLayout
from ml.models.clap_files import ClapFiles, clap_files
from ml.plain import flat
from ml.setting_sections import (
    AutomationSettings,
    BeatSettings,
    ComputeSettings,
    CorpusSettings,
    DemoSettings,
    EvaluationSettings,
    LabelEncoderSettings,
    LanceDbSettings,
    PromotionSettings,
    ShardSettings,
    TrackingSettings,
    TrainingSettings,
    demo_corpora,
)

HOME_VARIABLE = "STEMS_HOME"


class SettingsError(ValueError):
    """A setting is unknown or has a wrong value."""


class Settings(BaseSettings):
    """All settings of one home."""

    model_config = SettingsConfigDict(
        env_prefix="STEMS_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    home: Path
    corpora: dict[str, CorpusSettings] = Field(default_factory=demo_corpora)
    demo: DemoSettings = DemoSettings()
    label_encoder: LabelEncoderSettings = LabelEncoderSettings()
    shards: ShardSettings = ShardSettings()
    compute: ComputeSettings = ComputeSettings()
    training: TrainingSettings = TrainingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    beats: BeatSettings = BeatSettings()
    lancedb: LanceDbSettings = LanceDbSettings()
    promotion: PromotionSettings = PromotionSettings()
    automation: AutomationSettings = AutomationSettings()
    tracking: TrackingSettings = TrackingSettings()

    @property
    def layout(self) -> DataLayout:
        """Where everything lies below this home."""
        return DataLayout(
            home=self.home,
            shards_uri=self.shards.uri,
            shard_cache_gb=self.shards.cache_gb,
            lancedb_uri=self.lancedb.uri,
        )

    @property
    def build_uri(self) -> str | None:
        """Where a cluster puts shards: ``shards.uri`` if that is a URL, else into the home."""
        uri = self.shards.uri
        return uri if self.compute.dask_scheduler and uri and "://" in uri else None

    @property
    def clap_files(self) -> ClapFiles:
        """CLAP's files, which need not be there."""
        named = (self.label_encoder.checkpoint, self.label_encoder.tokenizer)
        checkpoint, tokenizer = (path and self.home / path.expanduser() for path in named)
        return clap_files(self.layout.clap, checkpoint, tokenizer)

    @property
    def tracking_uri(self) -> str:
        """MLflow's store."""
        return self.tracking.uri or f"sqlite:///{self.layout.mlflow / 'mlflow.db'}"

    def beat_corpora(self) -> tuple[str, ...]:
        """The corpora that beat probes are trained on.

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
        """The settings of a corpus, its root made absolute.

        Raises:
            SettingsError: no corpus has this name.
        """
        if name not in self.corpora:
            known = ", ".join(sorted(self.corpora))
            raise SettingsError(
                f"corpus {name!r} is not in {self.layout.config_path}; known corpora: {known}; "
                f"add it there under 'corpora:' or with: stems corpus add {name} KIND ROOT"
            )
        found = self.corpora[name]
        return found.model_copy(update={"root": self.home / found.root.expanduser()})


def default_home() -> Path:
    """``STEMS_HOME`` from the environment, or ``./data``."""
    return Path(os.environ.get(HOME_VARIABLE) or "data").expanduser().resolve()


def load_settings(home: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Settings of a home.

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
    except yaml.YAMLError as error:
        raise SettingsError(f"{config_path} is not YAML: {error}; mend it") from None


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
            return init_settings, env_settings, YamlConfigSettingsSource(settings_cls, config_path)

    return HomeSettings


def explain_settings(settings: Settings) -> list[tuple[str, Any, str]]:
    """Each value as (dotted key, value, where it came from: file, environment or default)."""
    config_path = settings.layout.config_path
    kind = type(settings)
    from_file = flat(YamlConfigSettingsSource(kind, config_path)())
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
