"""A store's files behind any URL that fsspec opens: s3://, gs://, hf://, memory:// …

An object store has no locks. Where two extractions may write the same object they write the same bytes, or the first
one wins by a conditional put (`RemoteFiles.settle`). A client without conditional puts checks first and then writes.

s3fs and botocore find the service and the credentials themselves: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, or fsspec's
configuration.
"""

import contextlib
import errno
from collections.abc import Iterator, Sequence

import fsspec
import numpy as np
import zarr
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from zarr.storage import FsspecStore

from read_cache.errors import StoreError

HUB = "hf://"
"""Begins the URL of a repository or bucket of the Hugging Face hub."""


class RemoteFiles:
    """Files below a URL; the methods are those of `LocalFiles`. A put is atomic."""

    def __init__(self, url: str) -> None:
        """Raise StoreError for a URL that fsspec cannot open."""
        self.url = url.rstrip("/")
        self.on_hub = self.url.startswith(HUB)
        try:  # without a cache of listings: other processes write the same store. The hub's client shares one for all
            if self.on_hub:
                from huggingface_hub import parse_hf_uri

                parse_hf_uri(self.url)  # raises ValueError
            self.system, self.root = fsspec.core.url_to_fs(
                self.url, use_listings_cache=False, skip_instance_cache=self.on_hub
            )
        except (ValueError, ImportError, OSError) as error:
            raise StoreError(
                f"{url} cannot be opened: {str(error).rstrip('. ')}. s3:// needs the package s3fs, gs:// gcsfs; a "
                "local store is a path"
            ) from error

    def exists(self, name: str) -> bool:
        with self.reaching(name):
            if not self.on_hub:
                return self.system.exists(self._at(name))
            try:  # its `exists` is False for a service that is away, too
                return bool(self.system.info(self._at(name)))
            except FileNotFoundError as error:
                if error.__cause__ is not None:  # there is no such repository or revision
                    raise error.__cause__ from None
                return False

    def read(self, name: str) -> bytes:
        with self.reaching(name):
            return self.system.cat_file(self._at(name))

    def write(self, name: str, data: bytes | np.ndarray) -> None:
        with self.reaching(name):
            self.system.pipe_file(self._at(name), data if isinstance(data, bytes) else data.tobytes())

    def settle(self, name: str, data: bytes) -> bool:
        path = self._at(name)
        with self.reaching(name):
            try:
                self.system.pipe_file(path, data, mode="create")
                return True
            except FileExistsError:
                pass
            except TypeError:  # a client without that mode
                if not self.system.exists(path):
                    self.system.pipe_file(path, data)
            return self.system.cat_file(path) == data

    def remove(self, name: str) -> None:
        with self.reaching(name), contextlib.suppress(FileNotFoundError):
            self.system.rm_file(self._at(name))

    def read_into(self, name: str, pieces: Sequence[tuple[int, np.ndarray]]) -> Iterator[int]:
        starts, ends = [start for start, _ in pieces], [start + len(piece) for start, piece in pieces]
        with self.reaching(name):
            if starts == [0, *ends[:-1]]:  # one request for the whole object
                data = memoryview(self.system.cat_file(self._at(name)))
                found = [data[start:end] for start, end in zip(starts, ends, strict=True)]
            else:
                found = self.system.cat_ranges([self._at(name)] * len(pieces), starts, ends, on_error="raise")
        for data, (_, piece) in zip(found, pieces, strict=True):
            piece[: len(data)] = np.frombuffer(data, np.uint8)
            yield len(data)

    def stamp(self, name: str) -> tuple[int, ...] | None:
        return None

    def forget(self, name: str) -> bool:
        return False

    def sizes(self, folder: str) -> dict[str, int]:
        with self.reaching(folder), contextlib.suppress(FileNotFoundError):
            entries = self.system.find(self._at(folder), detail=True)
            root = self.root.strip("/")
            return {path.strip("/").removeprefix(root).lstrip("/"): entry["size"] for path, entry in entries.items()}
        return {}

    def find(self, name: str) -> list[str]:
        return sorted(path.removesuffix(f"/{name}") for path in self.sizes("") if path.endswith(f"/{name}"))

    def group(self, name: str) -> zarr.Group:
        system = AsyncFileSystemWrapper(self.system, asynchronous=True)  # not a second client with its own sessions
        with self.reaching(name):
            return zarr.open_group(FsspecStore(system, read_only=True, path=self._at(name)), mode="r")

    @contextlib.contextmanager
    def reaching(self, name: str) -> Iterator[None]:
        """Raise StoreError for whatever a client library raises; each library has its own exceptions.

        The caller judges files that are absent (FileNotFoundError), end too early (OSError with EINVAL), or have a
        wrong checksum (ValueError, from zarr).
        """
        try:
            yield
        except (StoreError, FileNotFoundError, ValueError):
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.EINVAL:
                raise
            reason = str(error) or type(error).__name__
            if self.on_hub:
                from read_cache.hub import explain

                raise StoreError(f"{self.url}: {explain(error)}") from error
            raise StoreError(
                f"{self.url}/{name} cannot be reached: {reason}. What was complete is kept: check the network, the "
                "credentials and AWS_ENDPOINT_URL or its like, and run the same command again"
            ) from error

    def _at(self, name: str) -> str:
        return f"{self.root}/{name}".rstrip("/")
