"""Checks of this machine and its settings: `serve` stops at a failed one, `doctor` shows them all."""

import shutil
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pipelines.endpoint import Endpoint
from server.hosts import FAL_HOSTS, is_loopback
from server.queue.queue import Queue
from server.settings import Settings
from server.tls import RENEW_BEFORE, TlsError, TlsFiles, expiry, names_of
from weights.manifest import read_manifest
from weights.prepared import stored_dtype, unprepared
from weights.store import misfits, missing

LEAST_FREE_GB = 5
GET_WEIGHTS = "`veraicon weights pull {}` gets it; or try without it: `veraicon serve --weights tiny`"
PREPARE = "`veraicon weights prepare` makes what the server reads at its start, once after each pull"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Args:
        level: ``"stop"`` keeps the server from serving, ``"warn"`` will soon or sometimes.
        remedy: what to do; empty for ``"ok"``.
    """

    name: str
    level: Literal["ok", "warn", "stop"]
    message: str
    remedy: str = ""


def weights_findings(settings: Settings, catalog: Sequence[Endpoint]) -> list[Finding]:
    """One finding per checkpoint that the endpoints need."""
    if settings.weights == "tiny":
        return [Finding("weights", "ok", "tiny: embedded random weights; every picture is noise by nature")]
    root, manifest = settings.resolved_weights_dir, read_manifest(settings.weights_manifest)
    needed = list(dict.fromkeys(name for endpoint in catalog for name in endpoint.checkpoints))
    lacks: dict[str, list[str]] = {name: [] for name in needed}
    for one in [*missing(needed, root, manifest), *misfits(needed, root, manifest)]:
        lacks[one.checkpoint.name].append(f"{one.file.target} {one.problem}")
    return [
        Finding(
            f"weights {name}", "stop", f"checkpoint {name} in {root}: {first_of(problems)}", GET_WEIGHTS.format(name)
        )
        if problems
        else Finding(f"weights {name}", "ok", f"present in {root}")
        for name, problems in lacks.items()
    ] + prepared_findings(settings, [name for name, problems in lacks.items() if not problems])


def prepared_findings(settings: Settings, names: Sequence[str]) -> list[Finding]:
    """Whether what the server reads at its start is made, of the files that are there."""
    root, dtype = settings.resolved_weights_dir, stored_dtype(settings.resolved_dtype)
    problems = unprepared(names, root, dtype, read_manifest(settings.weights_manifest))
    if problems:
        told = [f"{target} {problem}" for target, problem in problems]
        return [Finding("prepared weights", "stop", f"in {root}: {first_of(told)}", PREPARE)]
    return [Finding("prepared weights", "ok", f"made as {dtype}")] if names else []


def first_of(problems: Sequence[str]) -> str:
    more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
    return problems[0] + more


def tls_findings(settings: Settings) -> list[Finding]:
    """Whether the configured certificate and key can be used, and for how long."""
    cert, key = settings.tls_cert, settings.tls_key
    if cert is None and key is None:
        own = TlsFiles(settings.data_dir / "tls").certificate
        if own.exists():
            return [own_certificate_finding(own)]
        return [Finding("tls", "ok", "off: plain HTTP (fal's unmodified clients need HTTPS: `veraicon serve --tls`)")]
    if cert is None or key is None:
        return [Finding("tls", "stop", "tls_cert and tls_key go together, one of them is not set", "set both")]
    renew = f"issue it again with `veraicon tls issue`, or replace {cert}"
    try:
        ends = expiry(cert)
        key.read_bytes()
    except (TlsError, OSError) as error:
        return [Finding("tls", "stop", str(error), f"check tls_cert={cert} and tls_key={key}")]
    left = ends - datetime.now(UTC)
    if left.total_seconds() <= 0:
        return [Finding("tls", "stop", f"the certificate {cert} expired on {ends:%Y-%m-%d}", renew)]
    if left < RENEW_BEFORE:
        return [Finding("tls", "warn", f"the certificate {cert} expires in {left.days} days", renew)]
    return [Finding("tls", "ok", f"the certificate {cert} is valid until {ends:%Y-%m-%d}"), *name_findings(cert)]


def name_findings(certificate: Path) -> list[Finding]:
    """Which of fal's names a certificate of the operator's own does not cover."""
    covered = names_of(certificate)
    lacks = [name for name in FAL_HOSTS if not {name, "*." + name.partition(".")[2]} & set(covered)]
    if not lacks:
        return []
    message = f"the certificate {certificate} is not valid for {', '.join(lacks)}"
    return [
        Finding("tls names", "warn", message, "clients that are led here by these names need a certificate with them")
    ]


def own_certificate_finding(certificate: Path) -> Finding:
    """The certificate that `serve --tls` uses and renews by itself."""
    try:
        ends = expiry(certificate)
    except TlsError as error:
        return Finding("tls", "stop", str(error), "issue it again with `veraicon tls issue`")
    renewed = f"`serve --tls` renews it by itself from {ends - RENEW_BEFORE:%Y-%m-%d}"
    return Finding("tls", "ok", f"the certificate {certificate} is valid until {ends:%Y-%m-%d}; {renewed}")


def keys_finding(settings: Settings, queue: Queue) -> Finding:
    """A server without keys answers its own machine only."""
    in_force = [key.name for key in queue.keys.every() if key.revoked_at is None]
    if in_force:
        return Finding("keys", "ok", f"{len(in_force)} in force: {', '.join(in_force)}")
    make_one = "make one with `veraicon keys create NAME`"
    if queue.keys.any_made():
        return Finding("keys", "warn", "every API key is revoked: each request is answered 401", make_one)
    if is_loopback(settings.host):
        return Finding("keys", "ok", "none: open, but only to this machine")
    message = f"there is no API key, and {settings.host} can be reached by others"
    return Finding("keys", "stop", message, f"{make_one}, or listen on this machine only: `--host 127.0.0.1`")


def port_finding(host: str, port: int) -> Finding:
    """Whether the address is free to listen on."""
    try:
        listen(host, port).close()
    except OSError as error:
        return cannot_listen(host, port, error)
    return Finding("port", "ok", f"{host}:{port} is free")


def cannot_listen(host: str, port: int, error: OSError) -> Finding:
    remedy = "stop what listens there, or choose another port: `veraicon serve --port 0` takes a free one"
    return Finding("port", "stop", f"cannot listen on {host}:{port}: {error.strerror or error}", remedy)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, inheritable by the HTTP process. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen(2048)
    except OSError:
        bound.close()
        raise
    bound.set_inheritable(True)
    return bound


def disk_finding(data_dir: Path) -> Finding:
    """Room for pictures and the queue."""
    free_gb = shutil.disk_usage(data_dir).free / 1e9
    message = f"{free_gb:.0f} GB free in {data_dir.absolute()}"
    if free_gb < LEAST_FREE_GB:
        return Finding("disk", "warn", message, "make room, or lower keep_results_h (VERAICON_KEEP_RESULTS_H)")
    return Finding("disk", "ok", message)
