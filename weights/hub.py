"""What a repository on the Hugging Face hub says about its files. The one place that uses huggingface_hub."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

import httpx2

from weights.manifest import HUB, WeightsError
from weights.patience import LATER, Passing, patiently, unreachable

OFFLINE = "huggingface_hub is told to stay offline: unset HF_HUB_OFFLINE for `veraicon weights pull`, or use `--from`"
ASK_S = 30.0


@dataclass(frozen=True)
class Remote:
    """A file as its source describes it.

    Args:
        size: bytes, None where it is not told. sha256: hex, or "". blob: git's name of a small file's content, or "".
        etag: what an HTTP server calls this version of it, or "".
    """

    size: int | None = None
    sha256: str = ""
    blob: str = ""
    etag: str = ""

    @property
    def identity(self) -> str:
        """A name of these bytes that other bytes will not have; "" where nothing is known."""
        told = hashlib.sha256(self.etag.encode()).hexdigest() if self.etag else ""
        return self.sha256 or self.blob or told


@dataclass(frozen=True)
class Repository:
    """One commit of a repository: its files by their paths."""

    commit: str
    files: Mapping[str, Remote]


def hub_address(endpoint: str | None) -> str:
    """Where the hub is: as told, else by the variable HF_ENDPOINT, else huggingface.co."""
    from huggingface_hub import constants  # noqa: PLC0415  0.3 s that only a pull pays

    return (endpoint or constants.ENDPOINT or HUB).rstrip("/")


def hub_token() -> str | None:
    """The variable HF_TOKEN, or what `hf auth login` has kept."""
    from huggingface_hub import get_token  # noqa: PLC0415  as above

    return get_token()


def read_repository(name: str, revision: str, hub: str) -> Repository:
    """The files of the repository `name` at `revision` ("" is its default branch).

    Raises:
        WeightsError: it cannot be had; the message says what to do.
    """
    return patiently(lambda: ask(name, revision, hub))


def ask(name: str, revision: str, hub: str) -> Repository:
    """One attempt. Raises Passing or WeightsError."""
    from huggingface_hub import HfApi, errors  # noqa: PLC0415  as above

    try:
        found = HfApi(endpoint=hub).model_info(name, revision=revision or None, files_metadata=True, timeout=ASK_S)
    except errors.OfflineModeIsEnabled as error:
        raise WeightsError(OFFLINE) from error
    except errors.RevisionNotFoundError as error:
        raise WeightsError(f"{hub}/{name} has no revision {revision}: `pull --update` takes its newest one") from error
    except errors.HfHubHTTPError as error:
        refuse(f"{hub}/{name}", error.response.status_code, error.response.headers.get("Retry-After", ""))
    except (httpx2.HTTPError, OSError) as error:
        raise unreachable(hub, error) from error
    return Repository(
        found.sha or "",
        {
            one.rfilename: Remote(one.size, one.lfs.sha256 if one.lfs else "", one.blob_id or "")
            for one in found.siblings or ()
        },
    )


def refuse(address: str, status: int, retry_after: str = "") -> NoReturn:
    """Raise what an HTTP status of a source means: Passing where it may work later, else WeightsError."""
    if status in LATER or status >= 500:
        raise Passing(f"{address} answered {status}", float(retry_after) if retry_after.isdigit() else None)
    remedies = {
        401: "it is private, needs its terms accepted, or is not there. Open it in a browser, accept its terms, make a "
        "token that may read it, and set HF_TOKEN",
        403: "your token may not read it. Open it in a browser with the token's account and accept its terms",
        404: "nothing is there any more. A mirror may have it (`--endpoint URL`), or a copy of yours (`--from FOLDER`)",
    }
    raise WeightsError(f"{address} answered {status}: {remedies.get(status, 'look at it in a browser')}")
