"""The types of the flows' parameters: what a deployment's form says of them, and what it refuses before a run starts."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from magicvideo_core.manifest.layout import RUN_ID_PATTERN


def _says(text: str) -> Any:
    """Return the description of a parameter; in this place Prefect hands it to the form, for optional ones too."""
    return Field(json_schema_extra={"description": text})


_Text = Annotated[str, Field(min_length=1)]
# What the names of a folder's runs or datasets begin with.
_SeriesName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,40}$")]
# What an unset variable of the environment gives in a deployment file.
_NothingIsNone = BeforeValidator(lambda value: value or None)

# 1. What to make, from what, where
Prompts = Annotated[_Text, _says("Prompt file: path, fsspec URL or glob of .txt, .csv, .jsonl, .parquet.")]
Inbox = Annotated[_Text, _says("Folder of prompt files on any fsspec URL, or a glob of them.")]
Output = Annotated[_Text, _says("Where runs lie: a folder or any fsspec URL.")]
RunUri = Annotated[_Text, _says("One run: OUTPUT/RUN_ID.")]
RunId = Annotated[
    Annotated[str, Field(pattern=f"^{RUN_ID_PATTERN}$")] | None, _says("That of an interrupted run continues it.")
]
Series = Annotated[
    _SeriesName,
    _says("Begins every run's id. A new name makes every prompt file anew, for example with other settings."),
]
Reuse = Annotated[_Text | None, _says("A run whose finished stages of the same recipe are taken over.")]

# 2. Settings
Preset = Annotated[Literal["tiny", "magicvideo2"], _says("Configuration that ships with the package.")]
ConfigFile = Annotated[str | None, _NothingIsNone, _says("TOML file over the preset, which the worker can read.")]
Overrides = Annotated[
    list[Annotated[str, Field(pattern=r"^[^=\s]+=")]],
    _says("One key over preset and file each: i2v.num_inference_steps=8"),
]
ShardSize = Annotated[Annotated[int, Field(ge=1)] | None, _says("Clips that are planned, retried and shown together.")]
Stages = Annotated[
    Annotated[str, Field(pattern=r"^(t2i|i2v|v2v|vfi)(,(t2i|i2v|v2v|vfi))*$")] | None,
    _says("Neighbours of t2i,i2v,v2v,vfi; all by default."),
]

# 3. What to do again
Stage = Annotated[Literal["t2i", "i2v", "v2v", "vfi"] | None, _says("Only clips that broke in this stage.")]
Shard = Annotated[Annotated[int, Field(ge=0)] | None, _says("Only clips of this shard.")]
Clips = Annotated[list[str], _says("Only these clips, by their id or the prompt file's.")]
Quarantined = Annotated[bool, _says("Also what broke its stage too often.")]
Unfinished = Annotated[bool, _says("Also what an interrupted run has not tried yet.")]
MaxAttempts = Annotated[int, Field(ge=1), _says("Leave alone what was tried so often.")]
AnyAttempts = Annotated[Annotated[int, Field(ge=1)] | None, _says("Leave alone what was tried so often.")]

# 4. Bounds and forecasts
MaxGpuHours = Annotated[
    Annotated[float, Field(gt=0)] | None, _says("Start no more work once clips have taken so many GPU-hours.")
]
Deadline = Annotated[_Text | None, _says("Start no more work from then on: 2026-11-23T06:00, or a duration (90m, 6h).")]
KeepWarm = Annotated[
    _Text | None,
    _says("For how long actors wait at the end for a next run in the same Ray cluster: 10m, 1h; not at all if empty."),
]
Timings = Annotated[_Text | None, _says("Seconds per clip by stage (t2i=1.3,...), or a run that has measured them.")]
Price = Annotated[Annotated[float, Field(ge=0)] | None, _says("Of a GPU-hour, for the cost in the forecast.")]

# 5. Training
Module = Annotated[Literal["vae", "t2i", "i2v", "v2v", "vfi"], _says("What to train.")]
Family = Annotated[_Text, _says("Folder for weights, checkpoint and log; training continues from it.")]
Base = Annotated[_Text | None, _says("The family so far: vae/ for t2i, t2i/ (i2v/, v2v/) for the video modules.")]
Chain = Annotated[bool, _says("Train every module after this one too, each into its own folder.")]
Workers = Annotated[int, Field(ge=1), _says("Processes that share every batch.")]
TrainOptions = Annotated[dict[str, Any] | None, _says("Further options of the training: steps, seed, data, ...")]

# 6. Datasets
Datasets = Annotated[_Text, _says("Where datasets lie: a folder or any fsspec URL.")]
DatasetSeries = Annotated[_SeriesName, _says("Begins the dataset's name.")]
Runs = Annotated[list[_Text], _says("Only these runs (URIs); all below the output by default.")]
Finished = Annotated[bool, _says("Leave out runs of which something is left to do.")]
DatasetFormat = Annotated[Literal["webdataset", "huggingface"], _says("Tar shards, or a folder with metadata.parquet.")]
Include = Annotated[list[Literal["t2i", "i2v", "v2v", "vfi"]], _says("Stages whose artifacts come along.")]
Where = Annotated[list[_Text], _says("Filters that a clip has to pass, like SQL: motion > 0.5 and width >= 512")]
Dedupe = Annotated[Literal["exact", "near", "none"], _says("Which duplicates are left out.")]
Splits = Annotated[_Text, _says("NAME=SHARE,...; a clip's split follows from its id.")]
SplitBy = Annotated[Literal["clip", "prompt"], _says("What stays together in one split.")]
ShardClips = Annotated[int, Field(ge=1, le=10_000), _says("Samples in one shard at most.")]
Measurements = Annotated[bool, _says("Measure what is not measured yet; the facts come along.")]
License = Annotated[str, _says("Of the dataset, for its card.")]
ExportedRuns = Annotated[list[_Text], Field(min_length=1), _says("The runs (URIs).")]
DatasetPlace = Annotated[_Text, _says("Where the dataset lies: a folder of its own, or any fsspec URL.")]
ExportedStage = Annotated[
    Literal["", "t2i", "i2v", "v2v", "vfi"], _says("What is the sample; the last stage if empty.")
]
NearDistance = Annotated[float, Field(ge=0.0, le=255.0), _says("How alike near duplicates are, in grey levels.")]
ShardMib = Annotated[int, Field(ge=1, le=4096), _says("Size of one shard at most.")]
