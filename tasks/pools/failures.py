"""What each error means for a pool: the written taxonomy, from exception class to action, told in docs/failures.md.

Classes decide, never the text of a message. Ray is imported only when one of its errors has to be classified.
"""

from dataclasses import dataclass
from enum import Enum

from magicvideo_core.errors import ActorDiedError, ActorError, ClipTimeoutError, PoolExhaustedError


class Action(Enum):
    """What a pool does about an error; docs/failures.md says what each one comes to."""

    RETRY_CLIP = "retry the clip"  # alone, in the same actor; quarantined after `max_clip_attempts`
    FAIL_CLIP = "fail the clip"  # at once: only mending the input helps
    REMAKE_UPSTREAM = "remake upstream"  # handed back to the caller, without a row
    AWAIT_STORAGE = "await storage"  # the clip goes back unblamed, and the pool waits until storage answers
    REPLACE_ACTOR = "replace the actor"  # whatever is left of it is killed; the clip counts as tried
    STOP_POOL = "stop the pool"  # no other actor would do better: every caller gets the error


# What the code in an actor raised: the first class in the error's own order of bases that is named here decides.
# Names, because torch's OutOfMemoryError must not be imported for it.
APPLICATION_ERRORS: dict[str, Action] = {
    # Weights or settings that one actor cannot use, no other actor can.
    "InputError": Action.STOP_POOL,
    "UpstreamLostError": Action.REMAKE_UPSTREAM,
    "TransientError": Action.AWAIT_STORAGE,
    "GivenMediaError": Action.FAIL_CLIP,
    "ClipError": Action.RETRY_CLIP,
    # What the failed attempt still holds would take the next clip's memory.
    "MemoryError": Action.REPLACE_ACTOR,
    "OutOfMemoryError": Action.REPLACE_ACTOR,
    "Exception": Action.RETRY_CLIP,
}

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

_LONGEST_SUMMARY = 600


@dataclass(frozen=True)
class Failure:
    """An error as the pool sees it: what to do, and the error to raise or record."""

    action: Action
    error: Exception


def application_action(error: Exception) -> Action:
    """Return what follows from an error that the code in an actor raised."""
    named = (APPLICATION_ERRORS[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in APPLICATION_ERRORS)
    return next(named)


def classify(error: Exception, what: str) -> Failure:
    """Return what follows from an error that came out of a call to an actor; `what` names the call for messages."""
    action = _ray_action(error)
    if action is Action.RETRY_CLIP:
        cause = _cause(error)
        return Failure(application_action(cause), cause)
    if action is Action.REPLACE_ACTOR:
        return Failure(Action.REPLACE_ACTOR, _actor_error(error, what))
    if action is Action.STOP_POOL:
        return Failure(Action.STOP_POOL, PoolExhaustedError(f"{what}: {type(error).__name__}: {_summary(error)}"))
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
    return ActorDiedError(f"{what}: {type(error).__name__}: {_summary(error)}")


def _cause(error: Exception) -> Exception:
    """Return what the code in the actor raised, where it survived the way here."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, Exception) else error


def _summary(error: Exception) -> str:
    """Return the first and the last line of a message: between them Ray names the actor, at the end how it ended."""
    lines = [line.strip() for line in str(error).strip().splitlines()] or ["no message"]
    return " ".join(dict.fromkeys([lines[0], lines[-1]]))[:_LONGEST_SUMMARY]
