"""The exception tree of the project, branching by what the caller can do about an error.

MagicVideoError
├── InputError                  mend the input; the command line answers exit code 2 and one sentence
│   ├── PromptError             a prompt file or one of its rows
│   ├── ConfigError             a preset, a configuration file or an override
│   ├── WeightsError            weights that are missing, incomplete or do not fit
│   └── RunError                a run directory: unwritable, not a run, or of another configuration
│       └── UnreadableError     one of the run's own records is torn or damaged
├── TransientError              the same call may succeed when it is tried again
│   ├── StorageUnavailableError storage still failing after the bounded retries
│   │   └── StorageLostError    and still failing when the pool's patience for it ended
│   └── UpstreamLostError       what an earlier stage made is gone or was changed: that stage makes it again
├── ClipError                   the clip's own fault: retry a few times, then quarantine it
│   ├── GateError               a stage's output that the next stage should not be paid for
│   ├── MediaError              bytes that do not decode, or frames that cannot be encoded
│   │   └── GivenMediaError     an image or video that the prompt brings along: mend it, then retry the clip
│   └── NonFiniteError          NaN or infinity in latents or frames
├── ActorError                  replace the actor
│   ├── ActorDiedError          the process is gone
│   ├── ClipTimeoutError        a clip took longer than the pool allows
│   └── PoolExhaustedError      work is waiting and no live actor is left
└── RunStoppedError             continue the run later: it was asked to stop, and what is durable stays

Every class takes the message as its positional arguments, so that errors survive pickling between processes.
"""


class MagicVideoError(Exception):
    """Base of every error that the project raises on purpose."""


class InputError(MagicVideoError):
    """The input or configuration is wrong; the message is one sentence that says what to change."""


class PromptError(InputError):
    """A prompt file cannot be used; names the file, row, column and value."""


class ConfigError(InputError):
    """A preset, configuration file or override cannot be used; names the key, the value and what is allowed."""


class WeightsError(InputError):
    """Weights are missing, incomplete or do not fit the architecture."""


class RunError(InputError):
    """A run directory is unwritable, is not a run, or belongs to another configuration."""


class UnreadableError(RunError):
    """A run record, plan, manifest or journal record is torn or damaged; names the object and what is wrong."""


class TransientError(MagicVideoError):
    """The same call may succeed when it is tried again."""


class StorageUnavailableError(TransientError):
    """Storage still failed after the bounded retries."""


class StorageLostError(StorageUnavailableError):
    """Storage did not come back within `pool.storage_patience_s`, so the run ends; it can be continued."""


class UpstreamLostError(TransientError):
    """An earlier stage's artifact is gone, or is not what its row says; takes the message and that stage's name."""

    def __str__(self) -> str:
        return str(self.args[0])

    @property
    def stage(self) -> str:
        """The earlier stage that has to make its artifact again."""
        return str(self.args[1])


class ClipError(MagicVideoError):
    """A clip failed for a reason of its own."""


class GateError(ClipError):
    """A stage's output does not satisfy the stage's gate."""


class MediaError(ClipError):
    """Bytes that do not decode as an image or a video, or frames that cannot be encoded."""


class GivenMediaError(MediaError):
    """An image or video that a prompt brings along cannot be read or does not decode; names it."""


class NonFiniteError(ClipError):
    """NaN or infinity in latents or frames."""


class ActorError(MagicVideoError):
    """A stage actor has to be replaced."""


class ActorDiedError(ActorError):
    """The process of a stage actor is gone."""


class ClipTimeoutError(ActorError):
    """A clip took longer than `pool.clip_timeout_s`."""


class PoolExhaustedError(ActorError):
    """Work is waiting and the pool has no live actor left to do it."""


class RunStoppedError(MagicVideoError):
    """The run was asked to stop before it was finished."""
