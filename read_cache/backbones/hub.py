"""The hub: a repository's files at one commit, from the network or its cache, and its errors in one sentence."""

from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

SECONDS = 10.0
"""Longest wait for the first response of the hub, in seconds; `snapshot_download` has no limit."""


def snapshot(name: str, kind: str, revision: str | None, files: list[str]) -> Path:
    """The cache's folder of a commit, named after it, with the files that match; kind is `model` or `dataset`.

    Where the hub cannot be reached, the branch's commit and its files are those that the cache holds.
    Raises what huggingface_hub raises; `explain` says it in a sentence.
    """
    away = not _answers(name, kind, revision)
    return Path(snapshot_download(name, repo_type=kind, revision=revision, allow_patterns=files, local_files_only=away))


def gguf_files(name: str, revision: str | None) -> list[str]:
    """Return the names of a model repository's GGUF files; of those in the cache where the hub cannot be reached."""
    if _answers(name, "model", revision):
        return [file for file in HfApi().list_repo_files(name, revision=revision) if file.endswith(".gguf")]
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
            return f"it has no revision {revision!r}: expected a branch, a tag or a whole commit"
        case RemoteEntryNotFoundError():
            return f"{at} lists a file that cannot be had: {error.response.url}"
        case HfHubHTTPError() if error.response.status_code in (401, 403):
            return f"{at} refuses the token that it was sent: check HF_TOKEN"
        case LocalEntryNotFoundError(__cause__=HfHubHTTPError(response=response)):
            return f"{at} answers {response.status_code}, and {kept}: try again later"
        case LocalEntryNotFoundError() if constants.HF_HUB_OFFLINE:
            return f"HF_HUB_OFFLINE is set, and {kept}: run once without it"
        case LocalEntryNotFoundError():
            return f"{at} cannot be reached, and {kept}: check the network and HF_ENDPOINT"
    return " ".join(str(error).split()).rstrip(".")[:400] or type(error).__name__
