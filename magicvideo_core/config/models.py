"""The configuration of a run: frozen, typed models that refuse unknown keys."""

from math import isnan
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from magicvideo_core.ids import STAGES, short_hash

Dtype = Literal["float32", "bfloat16", "float16"]
X264Preset = Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"]
PixelCount = Annotated[int, Field(ge=8, le=8192, multiple_of=8)]
WeightsReference = Annotated[str, Field(min_length=1)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


class PoolConfig(_Frozen):
    """The Ray actors of one stage: how many, what each takes, and where its patience ends."""

    min_actors: int = Field(default=1, ge=1)
    max_actors: int = Field(default=1, ge=1)
    num_gpus: float = Field(default=0.0, ge=0.0)
    num_cpus: float = Field(default=1.0, ge=0.0)
    batch_size: int = Field(default=1, ge=1)
    resources: dict[str, float] = Field(default_factory=dict)
    max_clip_attempts: int = Field(default=3, ge=1)
    max_actor_deaths: int = Field(default=4, ge=1)
    clip_timeout_s: float = Field(default=600.0, gt=0.0)
    placement_timeout_s: float = Field(default=300.0, gt=0.0)
    load_timeout_s: float = Field(default=1800.0, gt=0.0)
    storage_patience_s: float = Field(default=600.0, gt=0.0)
    recycle_after_clips: int = Field(default=0, ge=0)
    # Clips that the stage before has made and that wait for this one: at so many it starts no more.
    max_waiting_clips: int = Field(default=128, ge=1)
    # So many clips at most go to an actor in one call, where each takes it milliseconds; 1: never more than a batch.
    max_call_clips: int = Field(default=96, ge=1)

    @model_validator(mode="after")
    def _check(self) -> "PoolConfig":
        if self.min_actors > self.max_actors:
            raise ValueError(f"min_actors = {self.min_actors} must not exceed max_actors = {self.max_actors}")
        # Clips must be given up before actors are: the first bound finds poison clips, the second bad machines.
        if self.max_clip_attempts >= self.max_actor_deaths:
            raise ValueError(
                f"max_clip_attempts = {self.max_clip_attempts} must be below max_actor_deaths = {self.max_actor_deaths}"
            )
        # Ray places fractions reliably only when they are exact shares of one GPU.
        if self.num_gpus and not _is_share_or_whole(self.num_gpus):
            raise ValueError(f"num_gpus = {self.num_gpus} must be a whole number or an exact share 1/n of one GPU")
        return self


class GateConfig(_Frozen):
    """What a stage's output must satisfy before the next stage is paid for."""

    finite: bool = True
    num_frames: bool = True
    size: bool = True
    decodable: bool = True
    not_black: bool = False
    not_frozen: bool = False


Fault = Literal["raise", "clip_error", "black", "nan", "exit", "kill", "hang", "oom"]


class FakeConfig(_Frozen):
    """How the `fake` backend behaves: the time it takes, and what goes wrong with which clips.

    `faults` maps a word to what befalls the clips whose prompt holds it. `oom_limit_mib` is what the fault `oom` may
    take before allocating fails; 0 is no limit but the machine's. `trace_file` gets a line (stage, clip id) for each
    clip that the stage begins to compute: what was computed twice shows there. While there is a `hold_file`, the stage
    finishes nothing: what is to happen in the middle of a run can happen meanwhile. While there is a `slow_file`, each
    clip takes ten times `sleep_s`.
    """

    sleep_s: float = Field(default=0.0, ge=0.0)
    load_sleep_s: float = Field(default=0.0, ge=0.0)
    faults: dict[str, Fault] = Field(default_factory=dict)
    oom_limit_mib: int = Field(default=0, ge=0)
    trace_file: str = ""
    hold_file: str = ""
    slow_file: str = ""

    @field_validator("faults", mode="before")
    @classmethod
    def _spell_nan(cls, value: Any) -> Any:
        # An unquoted nan is a number to TOML.
        if not isinstance(value, dict):
            return value
        return {word: "nan" if isinstance(fault, float) and isnan(fault) else fault for word, fault in value.items()}


class _StageConfig(_Frozen):
    weights: WeightsReference
    revision: str = ""
    dtype: Dtype = "float32"
    pool: PoolConfig = Field(default_factory=PoolConfig)
    gate: GateConfig = Field(default_factory=GateConfig)
    fake: FakeConfig = Field(default_factory=FakeConfig)


class T2IConfig(_StageConfig):
    """Text to one reference image."""

    backend: Literal["diffusers", "fake"] = "diffusers"
    height: PixelCount
    width: PixelCount
    num_inference_steps: int = Field(ge=1, le=1000)
    timestep_shift: float = Field(default=1.0, gt=0.0, le=20.0)
    guidance_scale: float = Field(ge=0.0)
    first_pass_scale: float = Field(default=1.0, gt=0.0, le=1.0)
    refine_strength: float = Field(default=0.6, gt=0.0, le=1.0)
    refine_num_inference_steps: int | None = Field(default=None, ge=1, le=1000)
    refine_guidance_scale: float | None = Field(default=None, ge=0.0)
    images_per_forward: int = Field(default=1, ge=1, le=64)

    @model_validator(mode="after")
    def _check_first_pass(self) -> "T2IConfig":
        if self.pool.batch_size % self.images_per_forward:
            raise ValueError(
                f"pool.batch_size = {self.pool.batch_size} must be a multiple of "
                f"images_per_forward = {self.images_per_forward}, or most of each forward pass is padding"
            )
        if (self.height * self.first_pass_scale) % 8 or (self.width * self.first_pass_scale) % 8:
            raise ValueError(
                f"first_pass_scale = {self.first_pass_scale} must make height and width multiples of 8 too"
            )
        return self


class I2VConfig(_StageConfig):
    """Reference image and text to keyframes; each component is a weights reference of its own."""

    backend: Literal["diffusers", "fake"] = "diffusers"
    motion_adapter: WeightsReference
    controlnet: WeightsReference
    ip_adapter: WeightsReference
    image_encoder: WeightsReference
    height: PixelCount
    width: PixelCount
    num_frames: int = Field(ge=1, le=256)
    num_inference_steps: int = Field(ge=1, le=1000)
    timestep_shift: float = Field(default=1.0, gt=0.0, le=20.0)
    guidance_scale: float = Field(ge=0.0)
    ip_adapter_scale: float = Field(ge=0.0)
    controlnet_conditioning_scale: float = Field(ge=0.0)
    noise_prior_timestep: int = Field(ge=0, le=999)
    noise_prior_decay: float = Field(ge=0.0, le=1.0)
    noise_prior_start_timestep: int = Field(default=999, ge=1, le=999)
    decode_chunk_size: int = Field(ge=1)


class V2VConfig(I2VConfig):
    """Keyframes to refined frames: the fields of I2V, and how far back toward noise the keyframes go."""

    strength: float = Field(gt=0.0, le=1.0)


class VFIConfig(_StageConfig):
    """Refined frames to the finished video: `(num_frames - 1) * interp_factor + 1` frames.

    Two neighbours of which more than `cut_threshold` (0..1) has no counterpart are a cut, whose frames are repeated; 1 finds
    none. Pairs are interpolated together up to `batch_pixels`, one at least. `combine`: whose frames are taken, the lightweight
    head's, the GAN's, or both in one of three ways (`models.interpolator`).
    """

    backend: Literal["edsc", "rife", "fake"] = "edsc"
    combine: Literal["fallback", "blend", "frequency", "gan", "light"] = "fallback"
    interp_factor: int = Field(default=3, ge=1, le=16)
    cut_threshold: float = Field(default=0.42, gt=0.0, le=1.0)
    batch_pixels: int = Field(default=2**18, ge=1)
    fps: float = Field(default=24.0, gt=0.0, le=240.0)
    crf: int = Field(default=14, ge=0, le=51)
    x264_preset: X264Preset = "medium"


StageConfig = T2IConfig | I2VConfig | V2VConfig | VFIConfig


class RunConfig(_Frozen):
    """Everything that a run needs to know, resolved; stored in `run.json` and compared when a run is continued."""

    preset: str
    seed: int = Field(default=0, ge=0, lt=2**63)
    shard_size: int = Field(default=8, ge=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    stages: tuple[str, ...] = STAGES
    t2i: T2IConfig
    i2v: I2VConfig
    v2v: V2VConfig
    vfi: VFIConfig

    @field_validator("stages", mode="before")
    @classmethod
    def _split_stages(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value

    @field_validator("stages")
    @classmethod
    def _check_stages(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        start = STAGES.index(value[0]) if value and value[0] in STAGES else 0
        if not value or value != STAGES[start : start + len(value)]:
            raise ValueError(f"stages must be neighbours in the order {', '.join(STAGES)}")
        return value

    def stage(self, name: str) -> StageConfig:
        """Return the configuration of one stage; `name` is one of `ids.STAGES`."""
        stages: dict[str, StageConfig] = {"t2i": self.t2i, "i2v": self.i2v, "v2v": self.v2v, "vfi": self.vfi}
        return stages[name]

    def hash(self) -> str:
        """Return 16 hex digits over every key and value."""
        return short_hash(self.model_dump(mode="json"))


def _is_share_or_whole(num_gpus: float) -> bool:
    return num_gpus == int(num_gpus) if num_gpus >= 1 else abs(1 / num_gpus - round(1 / num_gpus)) < 1e-3
