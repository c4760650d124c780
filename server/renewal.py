"""Renewal: a new certificate is used without a restart, and our own one is renewed before it ends."""

import ssl
import threading
import time
from pathlib import Path

import structlog

from server.tls import TlsError, TlsFiles, ensure

LOOK_S = 1.0
"""How often the files are looked at: two `stat`s."""
RENEW_EVERY_S = 6 * 3600

log = structlog.get_logger()


def follow(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    """In a thread of its own: let new connections have the certificate and key as they are in the files now.

    A pair that does not fit, such as half of a replacement, leaves the old one in use and is tried again.
    """
    used = stamps(certificate, key)
    refused = None
    while True:
        time.sleep(LOOK_S)
        now = stamps(certificate, key)
        if now == used or None in now:
            continue
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
            context.load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as error:
            if refused != now:
                remedy = f"check that {certificate} and {key} belong together; the certificate before is still in use"
                log.warning("the new certificate cannot be used", error=str(error), remedy=remedy)
            refused = now
            continue
        used = now
        log.info("the new certificate is in use", certificate=str(certificate))


def stamps(*files: Path) -> list[tuple[int, int, int] | None]:
    """What changes whenever a file is replaced or rewritten; None while it is not there."""
    return [stamp(file) for file in files]


def stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def keep_renewed(certificate: Path | None, folder: Path, stop: threading.Event, every_s: float = RENEW_EVERY_S) -> None:
    """Until `stop`: issue the certificate again when it is about to end (server.tls.RENEW_BEFORE), if it is our own.

    Args:
        certificate: what is served; None, or one outside `folder`, is nothing that we could renew.
    """
    if certificate != TlsFiles(folder).certificate:
        return
    while not stop.wait(every_s):
        try:
            ensure(folder)
        except (OSError, TlsError) as error:
            log.error("the certificate cannot be renewed", error=str(error), remedy="run `veraicon tls issue` by hand")
