"""What is there to do for the scheduled flows: prompt files without finished runs, runs to retry, runs to export."""

from dataclasses import dataclass

from prefect import task
from prefect.cache_policies import NO_CACHE

from magicvideo_core.errors import InputError, RunError
from magicvideo_core.listing import has_wildcards
from magicvideo_core.manifest.layout import check_run_id, run_json_key
from magicvideo_core.manifest.session import wait_until_free
from magicvideo_core.prompt_files import SUFFIXES, PromptFiles
from magicvideo_core.redact import redact
from magicvideo_core.storage import Storage, expand_uri
from tasks.resolve import find_record
from tasks.retries import RETRY_TRANSIENT
from tasks.selection import RetryRequest, resolve_retry
from tasks.status import run_status


@dataclass(frozen=True)
class InboxFile:
    """A prompt file and the run that its content stands for; `problem` says why it cannot be used."""

    uri: str
    run_id: str
    run_uri: str
    is_finished: bool = False
    problem: str | None = None

    @property
    def is_due(self) -> bool:
        """Whether its run is to be started, or gone on with."""
        return not self.is_finished and self.problem is None


@dataclass(frozen=True)
class RunToRetry:
    """A run that has clips to work on; `problem` says why that cannot be known."""

    uri: str
    num_clips: int = 0
    problem: str | None = None


@dataclass(frozen=True)
class RunsToExport:
    """The runs that a dataset is made of; `problems` says of others why nothing can be known of them."""

    uris: list[str]
    problems: list[str]


@task(name="find_prompt_files", cache_policy=NO_CACHE, persist_result=False, **RETRY_TRANSIENT)
def find_prompt_files(inbox: str, output: str, series: str) -> list[InboxFile]:
    """Return the prompt files of `inbox`, by name, one per content, and whether their runs are finished."""
    pattern = inbox if has_wildcards(inbox) else f"{inbox.rstrip('/')}/*"
    files: dict[str, InboxFile] = {}
    for uri in expand_uri(pattern):
        if uri.lower().endswith(SUFFIXES):
            file = _inbox_file(uri, output, series)
            files.setdefault(file.run_id or uri, file)
    return list(files.values())


@task(name="find_runs_to_retry", cache_policy=NO_CACHE, persist_result=False, **RETRY_TRANSIENT)
def find_runs_to_retry(output: str, unfinished: bool, quarantined: bool, max_attempts: int) -> list[RunToRetry]:
    """Return the runs below `output`, by name, that have clips to work on and that nobody works on."""
    found = []
    for uri in _runs_below(output):
        request = RetryRequest(uri, quarantined=quarantined, unfinished=unfinished, max_attempts=max_attempts)
        try:
            selection = resolve_retry(request).selection
        except InputError as error:
            found.append(RunToRetry(uri, problem=redact(str(error))))
            continue
        if selection is not None and selection.clip_ids and _is_free(uri):
            found.append(RunToRetry(uri, len(selection.clip_ids)))
    return found


@task(name="find_finished_runs", cache_policy=NO_CACHE, persist_result=False, **RETRY_TRANSIENT)
def find_finished_runs(output: str, finished: bool) -> RunsToExport:
    """Return the runs below `output`, by name, that have clips in their last stage; with `finished` only whole ones."""
    found = RunsToExport([], [])
    for uri in _runs_below(output):
        try:
            status = run_status(Storage(uri))
        except InputError as error:
            found.problems.append(redact(str(error)))
            continue
        last = list(status["stages"].values())[-1]
        if last["succeeded"] and (status["finished"] or not finished):
            found.uris.append(uri)
    return found


def _runs_below(output: str) -> list[str]:
    pattern = f"{output.rstrip('/')}/*/{run_json_key()}"
    return [uri.removesuffix(f"/{run_json_key()}") for uri in expand_uri(pattern)]


def _inbox_file(uri: str, output: str, series: str) -> InboxFile:
    try:
        run_id = check_run_id(f"{series}-{PromptFiles(uri).hash()}")
        storage = Storage(f"{output.rstrip('/')}/{run_id}")
        # Of a record that is torn nothing is known: `generate` writes it again.
        is_finished = find_record(storage) is not None and bool(run_status(storage)["finished"])
        return InboxFile(uri, run_id, storage.uri, is_finished)
    except InputError as error:
        return InboxFile(uri, "", "", problem=redact(str(error)))


def _is_free(uri: str) -> bool:
    """Say whether no driver works on a run; watches a heartbeat where that is not sure."""
    try:
        wait_until_free(Storage(uri))
    except RunError:
        return False
    return True
