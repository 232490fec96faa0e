"""Hugging Face, with its own library for names, tokens and the endpoint (HF_ENDPOINT, HF_TOKEN, HF_HOME honoured)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..catalogue import File, Wanted
from . import http
from .base import Count, Source, SourceFailed


class HuggingFaceSource(Source):
    """The hub at HF_ENDPOINT."""

    def files(self, wanted: Wanted) -> Sequence[File]:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

        try:
            info = HfApi().model_info(
                wanted.repo, revision=wanted.revision, files_metadata=True, timeout=http.CONNECT_TIMEOUT_S
            )
        except GatedRepoError:
            raise SourceFailed(f"{wanted.repo} needs its licence accepted and a token (HF_TOKEN)") from None
        except RevisionNotFoundError:
            raise SourceFailed(f"{wanted.repo} has no revision {wanted.revision!r}") from None
        except RepositoryNotFoundError:
            raise SourceFailed(f"{wanted.repo} does not exist, or needs a token (HF_TOKEN)") from None
        except HfHubHTTPError as error:
            if error.response.status_code == 404:  # other servers than the hub's say no more
                raise SourceFailed(f"{wanted.repo} does not exist, or needs a token (HF_TOKEN)") from None
            raise SourceFailed(_first_line(error)) from None
        except (OSError, ValueError) as error:
            raise SourceFailed(_first_line(error)) from None
        except Exception as error:  # the library's HTTP client has changed its exceptions before
            if "http" not in type(error).__module__:
                raise
            raise SourceFailed(f"{type(error).__name__}: {_first_line(error)}") from None
        return [File(one.rfilename, one.size, one.lfs.sha256 if one.lfs else None) for one in info.siblings or ()]

    def fetch(self, wanted: Wanted, file: File, part: Path, count: Count) -> None:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils._headers import build_hf_headers

        url = hf_hub_url(wanted.repo, file.name, revision=wanted.revision)
        http.download(url, file, part, count, build_hf_headers())


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
