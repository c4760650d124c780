"""Tickets: short-lived signed permissions to upload: the bytes travel without the API key (fal-protocol.md §4)."""

import base64
import hashlib
import hmac
import time
from dataclasses import dataclass

LIFE_S = 3600
OWNER = "owner:"
"""In front of a name as a subject, so that no file's ticket can pass for one of an owner."""


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

    def issue_to(self, owner: str) -> str:
        """A ticket for any new file of `owner`, which it names: ``<base64url of the owner>.<ticket>``."""
        return f"{base64.urlsafe_b64encode(owner.encode()).decode()}.{self.issue(OWNER + owner)}"

    def owner_of(self, ticket: str) -> str | None:
        """Whom `issue_to` gave this ticket; None unless it is ours and not yet over."""
        name, _, rest = ticket.partition(".")
        try:
            owner = base64.urlsafe_b64decode(name.encode("ascii")).decode()
        except ValueError:
            return None
        return owner if self.admits(rest, OWNER + owner) else None

    def _sign(self, subject: str, ends: str) -> str:
        return hmac.new(self.secret, f"{subject}\n{ends}".encode("utf-8", "replace"), hashlib.sha256).hexdigest()
