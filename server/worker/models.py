"""Models: what a worker loads before it takes jobs, and how the settings want it run."""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import structlog

from pipelines.endpoint import Endpoint, Pipeline
from pipelines.memory import choose
from pipelines.profile import Profile
from pipelines.shelf import Shelf
from server.imports import opened
from server.settings import Settings
from server.worker.readahead import files_of, reading_ahead
from weights.install import tiny_weights

CARD = "pipelines.card:memory_in_use"
"""Import string of what tells a card's memory; opened only where there is one, because it loads torch."""

log = structlog.get_logger()


def profile_of(settings: Settings) -> Profile:
    """How the pipelines run under these settings."""
    device, tiny = settings.resolved_device, settings.weights == "tiny"
    return Profile(
        device=device,
        dtype=settings.resolved_dtype,
        detector="haar" if tiny else "scrfd",
        max_side=settings.max_side_px,
        final_sigmas=settings.final_sigmas,
        tiny=tiny,
        graphs=settings.graphs and device != "cpu" and settings.networks_stay,
        compile=settings.compile and settings.networks_stay,
        compile_cache=settings.resolved_compile_cache_dir,
        branches=settings.branches,
        channels_last=device != "cpu",
        attention=settings.attention,
        memory=settings.memory_profile,
        identity_cache_mb=settings.identity_cache_mb,
        identity_cache_s=settings.identity_cache_s,
        prepared=not tiny,
    )


def weights_root(settings: Settings) -> Path:
    """The folder that holds one folder per endpoint."""
    return tiny_weights(settings.weights_dir) if settings.weights == "tiny" else settings.resolved_weights_dir


def loaded(settings: Settings, catalog: Iterable[Endpoint]) -> Iterator[tuple[str, Pipeline]]:
    """The endpoints' pipelines by their ids, one after another.

    Raises:
        LoadError, ImportStringError: a model that cannot be loaded, with what to do.
    """
    endpoints, profile, root, shelf = list(catalog), profile_of(settings), weights_root(settings), Shelf()
    with reading_ahead(files_of(endpoints, settings, root)):
        for endpoint in endpoints:
            began = time.monotonic()
            pipeline: Pipeline = opened(endpoint.pipeline).load(root / endpoint.folder, profile, shelf)
            log.info("model loaded", endpoint=endpoint.id, seconds=round(time.monotonic() - began, 2))
            yield endpoint.id, pipeline


def memory_of_card(settings: Settings) -> dict[str, int]:
    """Bytes by kind: allocated, reserved, total; empty without a GPU."""
    device = settings.resolved_device
    return opened(CARD)(device) if device.startswith("cuda") else {}


def networks_come_and_go(settings: Settings) -> bool:
    """Whether networks leave the device for others (decision 0034), so that going on with the same model is faster."""
    if settings.memory_profile != "auto":
        return not settings.networks_stay
    total = memory_of_card(settings).get("total")
    return total is not None and choose(total) != "48gb"
