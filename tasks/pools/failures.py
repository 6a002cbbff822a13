"""What each Ray error means for a pool: the written taxonomy, from exception class to action.

Three things can follow from an error on the way to or from a stage actor:

RETRY_CLIP     the code raised and the actor lives on: try the clips again, each alone, up to `max_clip_attempts`
REPLACE_ACTOR  the actor is dead, stuck or out of reach: kill what is left of it, start another, try the clips again
STOP_POOL      no other actor would do better: every caller gets the error

Classes decide, never the text of a message. Ray is imported only when an error has to be classified.
"""

from dataclasses import dataclass
from enum import Enum

from magicvideo_core.errors import (
    ActorDiedError,
    ActorError,
    ClipTimeoutError,
    InputError,
    MagicVideoError,
    PoolExhaustedError,
)


class Action(Enum):
    """What a pool does about an error."""

    RETRY_CLIP = "retry the clip"
    REPLACE_ACTOR = "replace the actor"
    STOP_POOL = "stop the pool"


# The first class that matches decides, so subclasses stand before their bases.
RAY_ERRORS: tuple[tuple[str, Action], ...] = (
    # The code in the actor raised, or gave something that cannot travel; the process is fine.
    ("RayTaskError", Action.RETRY_CLIP),
    ("UserCodeException", Action.RETRY_CLIP),
    ("UnserializableException", Action.RETRY_CLIP),
    ("OufOfBandObjectRefSerializationException", Action.RETRY_CLIP),
    # The process is gone (SIGKILL, sys.exit, segmentation fault), or its node is.
    ("ActorDiedError", Action.REPLACE_ACTOR),
    # The network to it broke. It may still compute, so it is killed before another takes its place.
    ("ActorUnavailableError", Action.REPLACE_ACTOR),
    ("RayActorError", Action.REPLACE_ACTOR),
    ("WorkerCrashedError", Action.REPLACE_ACTOR),
    ("NodeDiedError", Action.REPLACE_ACTOR),
    # Ray's memory monitor killed it: the clip may be the culprit, so it counts as a death.
    ("OutOfMemoryError", Action.REPLACE_ACTOR),
    ("AsyncioActorExit", Action.REPLACE_ACTOR),
    # The reply was made and lost with the process or node that held it.
    ("ObjectLostError", Action.REPLACE_ACTOR),
    # Nothing came back in time: a hang.
    ("GetTimeoutError", Action.REPLACE_ACTOR),
    ("RpcError", Action.REPLACE_ACTOR),
    # Everything below is the cluster's or the deployment's state; another actor would meet it too.
    ("ActorUnschedulableError", Action.STOP_POOL),
    ("TaskUnschedulableError", Action.STOP_POOL),
    ("ActorPlacementGroupRemoved", Action.STOP_POOL),
    ("TaskPlacementGroupRemoved", Action.STOP_POOL),
    ("RuntimeEnvSetupError", Action.STOP_POOL),
    ("LocalRayletDiedError", Action.STOP_POOL),
    ("OutOfDiskError", Action.STOP_POOL),
    ("AuthenticationError", Action.STOP_POOL),
    ("TaskCancelledError", Action.STOP_POOL),
    ("RaySystemError", Action.STOP_POOL),
    ("RayError", Action.STOP_POOL),
)


@dataclass(frozen=True)
class Failure:
    """An error as the pool sees it: what to do, and the project's own error to raise or record."""

    action: Action
    error: MagicVideoError | Exception


def classify(error: Exception, what: str) -> Failure:
    """Return what follows from an error that came out of a call to an actor; `what` names the call for messages."""
    action = _ray_action(error)
    if action is Action.RETRY_CLIP:
        cause = _cause(error)
        # Weights or settings that one actor cannot use, no other actor can: mend the input.
        if isinstance(cause, InputError):
            return Failure(Action.STOP_POOL, cause)
        return Failure(Action.RETRY_CLIP, cause)
    if action is Action.REPLACE_ACTOR:
        return Failure(Action.REPLACE_ACTOR, _actor_error(error, what))
    if action is Action.STOP_POOL:
        return Failure(Action.STOP_POOL, PoolExhaustedError(f"{what}: {type(error).__name__}: {_first_line(error)}"))
    # Not Ray's: an error of the pool's own code or of the journal.
    return Failure(Action.STOP_POOL, error)


def _ray_action(error: Exception) -> Action | None:
    import ray.exceptions

    for name, action in RAY_ERRORS:
        kind = getattr(ray.exceptions, name, None)
        if kind is not None and isinstance(error, kind):
            return action
    return None


def _actor_error(error: Exception, what: str) -> ActorError:
    import ray.exceptions

    if isinstance(error, ray.exceptions.GetTimeoutError):
        return ClipTimeoutError(f"{what}: no result in time, so the actor was killed")
    return ActorDiedError(f"{what}: {type(error).__name__}: {_first_line(error)}")


def _cause(error: Exception) -> Exception:
    """Return what the code in the actor raised, where it survived the way here."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, Exception) else error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no message"
