"""The Hugging Face hub: a repository's files at one commit, commits of many files, and its errors in one sentence.

huggingface_hub finds the service and the token itself: HF_ENDPOINT, HF_TOKEN, or what `hf auth login` saved.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    constants,
    get_token,
    parse_hf_uri,
    snapshot_download,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from read_cache.errors import UserError

SECONDS = 10.0
"""Longest wait for the first response of the hub, in seconds; `snapshot_download` has no limit."""
COMMIT_FILES = 500
"""Files in a commit, at least, but for the last. The hub limits the number of commits: one a file would be refused."""


def snapshot(name: str, kind: str, revision: str | None, files: list[str]) -> Path:
    """The cache's folder of a commit, named after it, with the files that match; kind is `model` or `dataset`.

    Files in subfolders are left out, such as weights of other formats: `*.safetensors` alone would match those too.
    Where the hub cannot be reached, the branch's commit and its files are those that the cache holds.
    Raises what huggingface_hub raises; `explain` and `reaching` say it in a sentence.
    """
    away = not _answers(name, kind, revision)
    return Path(
        snapshot_download(
            name, repo_type=kind, revision=revision, allow_patterns=files, ignore_patterns="*/*", local_files_only=away
        )
    )


def gguf_files(name: str, revision: str | None) -> list[str]:
    """Return the names of a model repository's GGUF files outside subfolders.

    Where the hub cannot be reached, they are those in the cache.
    """
    if _answers(name, "model", revision):
        files = HfApi().list_repo_files(name, revision=revision)
        return [file for file in files if file.endswith(".gguf") and "/" not in file]
    return [file.name for file in snapshot(name, "model", revision, ["*.gguf"]).glob("*.gguf")]


def _answers(name: str, kind: str, revision: str | None) -> bool:
    """Return True if the hub responds at all, even with an error status."""
    try:
        HfApi().repo_info(name, repo_type=kind, revision=revision, timeout=SECONDS)
    except HFValidationError:
        raise
    except HfHubHTTPError:
        return True
    except Exception:  # the HTTP client's own errors, which differ between versions of huggingface_hub
        return False
    return True


def explain(error: Exception, revision: str | None = None) -> str:
    """Return the cause of an error of the hub and its remedy, in one sentence."""
    at = constants.ENDPOINT
    kept = f"the cache {constants.HF_HUB_CACHE} holds no whole copy of {f'revision {revision}' if revision else 'it'}"
    match error:
        case GatedRepoError():
            return f"{at} gives it only to those whom its owners admitted: ask there for access, and set HF_TOKEN"
        case RepositoryNotFoundError():
            return f"{at} has nothing of that name, or it is private: check the name, or set HF_TOKEN to a token for it"
        case RevisionNotFoundError():
            which = f"revision {revision!r}" if revision else "such revision"
            return f"it has no {which}: expected a branch, a tag or a whole commit"
        case RemoteEntryNotFoundError():
            return f"{at} lists a file that cannot be had: {error.response.url}"
        case HfHubHTTPError() if error.response.status_code in (401, 403) and get_token() is None:
            return f"{at} asks for a token: set HF_TOKEN"
        case HfHubHTTPError() if error.response.status_code == 403:
            return f"{at} forbids it: check the name, and that HF_TOKEN may write there"
        case HfHubHTTPError() if error.response.status_code == 401:
            return f"{at} refuses the token that it was sent: check HF_TOKEN"
        case LocalEntryNotFoundError(__cause__=HfHubHTTPError(response=response)):
            return f"{at} answers {response.status_code}, and {kept}: try again later"
        case LocalEntryNotFoundError() if constants.HF_HUB_OFFLINE:
            return f"HF_HUB_OFFLINE is set, and {kept}: run once without it"
        case LocalEntryNotFoundError():
            return f"{at} cannot be reached, and {kept}: check the network and HF_ENDPOINT"
        case OfflineModeIsEnabled():
            return "HF_HUB_OFFLINE is set: run without it"
        case FileNotFoundError(__cause__=Exception() as cause) | RuntimeError(__cause__=Exception() as cause):
            return explain(cause, revision)  # of HfFileSystem, of an upload in a thread
    if any(kind.__name__ == "TransportError" for kind in type(error).__mro__):  # of the client's HTTP library
        return f"{at} cannot be reached: check the network and HF_ENDPOINT"
    return " ".join(str(error).split()).rstrip(".")[:400] or type(error).__name__


@contextlib.contextmanager
def reaching(what: str, revision: str | None = None) -> Iterator[None]:
    """Raise UserError, which begins with `what`, for everything that the client raises."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # besides its own, those of its HTTP library
        raise UserError(f"{what}: {explain(error, revision)}") from error


class Uploads:
    """Files on their way to hf://datasets/OWNER/NAME or another repository: uploaded as they come, committed together.

    hf://buckets/OWNER/NAME has no commits. What a killed process has uploaded and not committed is not uploaded again:
    the hub knows it by its content. Every method raises UserError.
    """

    def __init__(self, url: str, private: bool | None) -> None:
        """Make the repository or bucket if there is none, private or not; None is the default of its owner."""
        self._uri, self._api, self._what = parse_hf_uri(url), HfApi(), f"{url} cannot be written"
        self._waiting: list[CommitOperationAdd | CommitOperationDelete] = []
        with reaching(self._what):
            if self._uri.type == "bucket":
                self._api.create_bucket(self._uri.id, private=private, exist_ok=True)
            else:
                self._api.create_repo(self._uri.id, repo_type=self._uri.type, private=private, exist_ok=True)

    @property
    def of_dataset(self) -> bool:
        """True if the files are at the root of a dataset, whose page shows its README.md."""
        return self._uri.type == "dataset" and not self._uri.path_in_repo

    def add(self, files: Mapping[str, bytes]) -> None:
        """Upload files, and commit them if enough are waiting."""
        named = {self._at(name): data for name, data in files.items()}
        with reaching(self._what):
            if self._uri.type == "bucket":
                self._api.batch_bucket_files(self._uri.id, add=[(data, path) for path, data in named.items()])
                return
            added = [CommitOperationAdd(path, data) for path, data in named.items()]
            self._api.preupload_lfs_files(self._uri.id, added, repo_type=self._uri.type, revision=self._uri.revision)
            self._waiting += added
            if len(self._waiting) >= COMMIT_FILES:
                self._commit("Add a part of a store")

    def finish(self, files: Mapping[str, bytes], leftover: str, message: str) -> None:
        """Upload the last files, remove the file `leftover`, and commit everything."""
        self.add(files)
        with reaching(self._what):
            if self._uri.type == "bucket":
                self._api.batch_bucket_files(self._uri.id, delete=[self._at(leftover)])
            else:
                self._waiting.append(CommitOperationDelete(self._at(leftover)))
                self._commit(message)

    def _at(self, name: str) -> str:
        return f"{self._uri.path_in_repo}/{name}".lstrip("/")

    def _commit(self, message: str) -> None:
        waiting, self._waiting = self._waiting, []
        kind, revision = self._uri.type, self._uri.revision
        self._api.create_commit(self._uri.id, waiting, commit_message=message, repo_type=kind, revision=revision)
