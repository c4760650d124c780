"""Every setting: frozen, read once from VERAICON_*, the unit in the name; an unknown name refuses to start."""

import os
from ipaddress import ip_network
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "VERAICON_"

OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "ORT_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
"""What keeps the libraries of a running server from the network, set for every process that serves."""

IMAGE_FORMATS = {
    "jpeg": ("jpg", "jpeg"),
    "png": ("png",),
    "webp": ("webp",),
    "gif": ("gif",),
    "avif": ("avif",),
}
"""What fal's own page accepts (fal-protocol.md §9), and the suffixes that it has."""


class SettingsError(Exception):
    """A VERAICON_* environment variable is unknown or has a bad value."""


class Settings(BaseSettings):
    """One frozen object, made at start and handed down. Each field is the environment variable VERAICON_<FIELD>."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    data_dir: Path = Field(default=Path("data"), description="The queue, the pictures and the keys live below here.")
    database_url: str | None = Field(
        default=None, description="SQLAlchemy URL of the queue; the default is SQLite in data_dir/queue.db."
    )
    files_url: str | None = Field(
        default=None, description="Where pictures go: file:///folder or s3://bucket/prefix; default data_dir/files."
    )
    weights: Literal["full", "tiny"] = Field(
        default="full", description="full: real checkpoints; tiny: random weights, pictures are noise."
    )
    weights_dir: Path | None = Field(
        default=None, description="Folder of the real checkpoints; default data_dir/weights."
    )
    weights_manifest: Path | None = Field(
        default=None, description="A manifest of weights of your own in place of the built-in one (docs/weights.md)."
    )
    hub_endpoint: str | None = Field(
        default=None,
        pattern=r"^https?://",
        description="Mirror of the Hugging Face hub for `weights pull`; default HF_ENDPOINT, else huggingface.co.",
    )
    catalog: str = Field(default="pipelines.catalog:CATALOG", description="Import string of the endpoints offered.")
    aliases: bool = Field(
        default=False, description="Also answer for the endpoints' other ids, which the catalog lists as aliases."
    )

    host: str = Field(default="127.0.0.1", description="Address to listen on; anything but loopback needs API keys.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one and prints it.")
    tls_cert: Path | None = Field(default=None, description="Certificate chain (PEM); with tls_key, serve HTTPS.")
    tls_key: Path | None = Field(default=None, description="Private key (PEM) of tls_cert.")
    trusted_proxies: str = Field(
        default="127.0.0.1",
        description="Reverse proxies whose X-Forwarded-Proto, -For and -Host are believed: addresses, CIDRs, or *.",
    )
    outbound: str = Field(
        default="public",
        description="Which hosts picture and webhook URLs may name: public, none, or public plus a comma-separated "
        "list of CIDRs and host names (10.0.0.0/8,media.studio.lan) that may be private.",
    )
    outbound_ca: Path | None = Field(
        default=None,
        description="Authorities (PEM) trusted for picture and webhook URLs besides the public ones: a studio's own.",
    )

    device: str | None = Field(
        default=None,
        pattern=r"^(cpu|cuda(:\d+)?)$",
        description="cuda, cuda:N or cpu; default cuda for full weights, cpu for tiny. Never a fallback.",
    )
    dtype: Literal["float16", "bfloat16", "float32"] | None = Field(
        default=None,
        description="Precision of the networks; default float16 on cuda, float32 on cpu. bfloat16 rounds coarsely.",
    )
    max_side_px: int = Field(
        default=1280, ge=64, le=2048, multiple_of=64, description="Longest side of pictures sized by the photo."
    )
    png_parameters: bool = Field(
        default=True, description="Write a request's parameters, without its pictures, into the PNGs that it makes."
    )
    final_sigmas: Literal["sigma_min", "zero"] = Field(
        default="sigma_min",
        description="Where a sampler that may end above zero ends: sigma_min as upstream, zero without residual noise.",
    )
    graphs: bool = Field(
        default=False,
        description="On cuda, replay steps of a kind that comes again as one CUDA graph; run `make gpu-check` first.",
    )
    compile: bool = Field(
        default=False, description="Compile steps that come again, in the background; needs a C++ compiler."
    )
    compile_cache_dir: Path | None = Field(
        default=None, description="Keeps compiled steps over restarts; default data_dir/compiled."
    )
    branches: bool = Field(default=False, description="On cuda, run ControlNets and the UNet's encoder side by side.")
    attention: Literal["auto", "cudnn", "flash", "efficient", "math"] = Field(
        default="auto", description="Which of torch's attention kernels steps prefer; auto lets torch choose."
    )
    memory_profile: Literal["auto", "12gb", "16gb", "24gb", "48gb"] = Field(
        default="auto",
        description="The card's memory; below 48gb networks wait in the computer's memory; no graphs, no compiling.",
    )
    identity_cache_mb: int = Field(
        default=64,
        ge=0,
        description="Faces found, identity tokens, encoded texts kept in memory, per endpoint; 0 keeps none.",
    )
    identity_cache_s: float = Field(default=600, gt=0, description="How long those are kept, after they were made.")
    workers: int | None = Field(
        default=None, ge=1, description="Worker processes; default one per GPU, or one on the CPU."
    )
    max_batch: int = Field(
        default=1,
        ge=1,
        le=16,
        description="Requests of one kind that are generated together when several wait: more pictures per hour, each "
        "of them later. 1: every request alone.",
    )
    batch_wait_ms: int = Field(
        default=10,
        ge=0,
        le=1000,
        description="How long the device waits for requests of a batch that are not prepared yet; a request that came "
        "alone is never waited with.",
    )
    warm_s: float = Field(
        default=2,
        ge=0,
        description="Where networks come and go (memory_profile), requests of the model that is on the card go first "
        "until another has waited for this long; 0: in order of arrival.",
    )
    recycle_rss_gb: float = Field(
        default=4,
        gt=0,
        description="A worker whose own memory grew by this much since its first requests is replaced between two.",
    )
    worker_name: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="What this host is called in /ready and metrics, workers with a number; default its name. "
        "Of several `veraicon api` or `worker` on one host each needs another.",
    )

    max_body_mb: int = Field(default=64, ge=1, description="Largest request body, data URIs included.")
    max_upload_mb: int = Field(default=128, ge=1, description="Largest file to upload, in one piece or in parts.")
    max_upload_total_mb: int = Field(
        default=0, ge=0, description="What the uploads of one key may weigh together, until they expire; 0: no limit."
    )
    max_image_mb: int = Field(default=50, ge=1, description="Largest picture to fetch or decode, as a file.")
    max_image_mp: int = Field(default=64, ge=1, description="Largest picture to decode, in megapixels.")
    image_formats: str = Field(
        default="jpeg,png,webp",
        description="Formats of pictures that are read, told by their content: also gif and avif, if you want them.",
    )
    fetch_timeout_s: float = Field(default=30, gt=0, description="Total time to fetch one picture.")
    max_queue: int = Field(default=10_000, ge=1, description="Jobs that may wait; one more is answered 429.")
    max_queued_per_key: int | None = Field(
        default=None, ge=1, description="Jobs of one key that may wait; one more is answered 429. Default no limit."
    )
    max_concurrent_per_key: int | None = Field(
        default=None,
        ge=1,
        description="Jobs of one key that may wait or run when one more is made directly, without the queue; "
        "beyond it a direct run is answered 429 concurrent_requests_limit. Default no limit.",
    )
    low_priority_wait_s: float = Field(
        default=600,
        gt=0,
        description="How long a low-priority job waits while normal ones go first; then it is a normal one itself.",
    )
    hold_status_ms: int = Field(
        default=400,
        ge=0,
        le=2000,
        description="How long a status poll with nothing new waits for news before it is answered; 0 never waits.",
    )
    send_timeout_s: float = Field(
        default=60, gt=0, description="A client that takes nothing of its answer for this long is cut off."
    )

    lease_s: float = Field(default=30, gt=0, description="A job whose worker is silent for this long is given away.")
    heartbeat_s: float = Field(
        default=5, gt=0, description="How often a worker says that it lives; lease_s / 3 at most."
    )
    max_attempts: int = Field(default=3, ge=1, description="How often a job is tried when its worker dies.")
    job_timeout_s: float = Field(default=600, gt=0, description="A job without a finished step for this long is ended.")
    quarantine_after: int = Field(
        default=5, ge=1, description="Failures of a worker in a row after which its GPU is left alone for quarantine_s."
    )
    quarantine_s: float = Field(
        default=600, gt=0, description="How long a GPU whose worker failed again and again is left alone, before a try."
    )
    drain_s: float = Field(default=30, ge=0, description="On SIGTERM, time for the running job to finish.")
    keep_results_h: float = Field(default=720, gt=0, description="How long finished requests and pictures are kept.")

    log_format: Literal["console", "json"] = Field(default="console", description="How log lines look.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(default="INFO", description="Least level to log.")

    @model_validator(mode="after")
    def a_lease_outlasts_lost_heartbeats(self) -> Self:
        if self.lease_s < 3 * self.heartbeat_s:
            raise ValueError(f"{PREFIX}LEASE_S must be at least three times {PREFIX}HEARTBEAT_S")
        return self

    @field_validator("trusted_proxies")
    @classmethod
    def known_proxies(cls, text: str) -> str:
        for word in text.split(","):
            if word.strip() not in {"", "*"}:
                ip_network(word.strip())  # its ValueError names what is wrong
        return text

    @field_validator("image_formats")
    @classmethod
    def known_formats(cls, text: str) -> str:
        unknown = sorted(set(formats_of(text)) - IMAGE_FORMATS.keys())
        if unknown or not formats_of(text):
            raise ValueError(
                f"{', '.join(unknown) or 'nothing'} is no image format; choose from {', '.join(IMAGE_FORMATS)}"
            )
        return text

    @property
    def resolved_database_url(self) -> str:
        return self.database_url or f"sqlite:///{self.data_dir.absolute() / 'queue.db'}"

    @property
    def resolved_files_url(self) -> str:
        return self.files_url or f"file://{self.data_dir.absolute() / 'files'}"

    @property
    def resolved_weights_dir(self) -> Path:
        return self.weights_dir or self.data_dir / "weights"

    @property
    def resolved_dtype(self) -> Literal["float16", "bfloat16", "float32"]:
        return self.dtype or ("float32" if self.resolved_device == "cpu" else "float16")

    @property
    def networks_stay(self) -> bool:
        """Whether networks stay on the card, as recording and compiling need; auto may still decide otherwise."""
        return self.memory_profile in ("auto", "48gb")

    @property
    def resolved_compile_cache_dir(self) -> Path:
        return self.compile_cache_dir or self.data_dir.absolute() / "compiled"

    @property
    def resolved_device(self) -> str:
        return self.device or ("cpu" if self.weights == "tiny" else "cuda")


def formats_of(text: str) -> list[str]:
    """The formats that the setting image_formats lists."""
    return [word.strip().lower() for word in text.split(",") if word.strip()]


def child_environment(settings: Settings, **more: str) -> dict[str, str]:
    """This process's environment for a child whose `read_settings` shall return `settings`; `more` is set besides.

    The child's libraries are offline, whatever the environment says.
    """
    others = {name: value for name, value in os.environ.items() if not name.upper().startswith(PREFIX)}
    values = settings.model_dump(mode="json", exclude_none=True)
    return {**others, **{f"{PREFIX}{name.upper()}": str(value) for name, value in values.items()}, **OFFLINE, **more}


def read_settings(**overrides: object) -> Settings:
    """Settings from the environment; `overrides` (command-line options) win.

    Raises:
        SettingsError: an unknown VERAICON_* name or a bad value, each named.
    """
    known = {f"{PREFIX}{name}".upper() for name in Settings.model_fields}
    unknown = sorted(name for name in os.environ if name.upper().startswith(PREFIX) and name.upper() not in known)
    if unknown:
        raise SettingsError(f"unknown setting {', '.join(unknown)}; `veraicon settings` lists every name")
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})  # pyright: ignore[reportArgumentType]
    except ValidationError as error:
        lines = [f"{PREFIX}{'_'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors()]
        raise SettingsError("; ".join(lines)) from None
