"""Tickets: short-lived signed permissions to upload: the bytes travel without the API key (fal-protocol.md §4)."""

import hashlib
import hmac
import time
from dataclasses import dataclass

LIFE_S = 3600


@dataclass(frozen=True)
class Tickets:
    """Issues and checks tickets ``<unix seconds of the end>.<hex HMAC-SHA-256>``; every API host shares the secret."""

    secret: bytes

    def issue(self, subject: str, life_s: int = LIFE_S) -> str:
        """A ticket for `subject`, e.g. the id of the file that may be written with it."""
        ends = str(int(time.time()) + life_s)
        return f"{ends}.{self._sign(subject, ends)}"

    def admits(self, ticket: str, subject: str) -> bool:
        """Whether the ticket is ours, for this subject and not yet over."""
        ends, _, signature = ticket.partition(".")
        expected = self._sign(subject, ends)
        genuine = hmac.compare_digest(signature.encode("utf-8", "replace"), expected.encode())
        return genuine and int(ends) >= time.time()

    def _sign(self, subject: str, ends: str) -> str:
        return hmac.new(self.secret, f"{subject}\n{ends}".encode("utf-8", "replace"), hashlib.sha256).hexdigest()
