"""The exception tree: complete, picklable, and branching the way the pool and the command line rely on."""

import inspect
import pickle

import pytest

from magicvideo_core import errors

ALL = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, errors.MagicVideoError) and value.__module__ == errors.__name__
]


@pytest.mark.parametrize("error_type", ALL, ids=lambda error_type: error_type.__name__)
def test_errors_survive_pickling(error_type: type[Exception]) -> None:
    error = pickle.loads(pickle.dumps(error_type("clip 0a, stage i2v", 3)))
    assert type(error) is error_type
    assert error.args == ("clip 0a, stage i2v", 3)


@pytest.mark.parametrize("error_type", ALL, ids=lambda error_type: error_type.__name__)
def test_the_tree_at_the_top_of_the_file_names_every_class(error_type: type[Exception]) -> None:
    assert error_type.__name__ in (errors.__doc__ or "")


def test_branches_exclude_each_other() -> None:
    branches = errors.MagicVideoError.__subclasses__()
    assert {errors.InputError, errors.TransientError, errors.ClipError, errors.ActorError} <= set(branches)
    for error_type in ALL[1:]:
        assert sum(issubclass(error_type, branch) for branch in branches) == 1, error_type
