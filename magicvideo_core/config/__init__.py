"""The configuration of a run: models, presets, loading and comparison."""

from magicvideo_core.config.loading import diff_configs, list_presets, load_config
from magicvideo_core.config.models import (
    FakeConfig,
    GateConfig,
    I2VConfig,
    PoolConfig,
    RunConfig,
    StageConfig,
    T2IConfig,
    V2VConfig,
    VFIConfig,
)

__all__ = [
    "load_config",
    "diff_configs",
    "list_presets",
    "RunConfig",
    "StageConfig",
    "T2IConfig",
    "I2VConfig",
    "V2VConfig",
    "VFIConfig",
    "PoolConfig",
    "GateConfig",
    "FakeConfig",
]
