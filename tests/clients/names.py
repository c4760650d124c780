"""Names: fal's host names lead a client's process to the server under test; what it asked for is written down."""

from dataclasses import dataclass
from pathlib import Path

PROGRAMS = Path(__file__).parent
PYTHON, JAVASCRIPT = PROGRAMS / "py", PROGRAMS / "js"


@dataclass(frozen=True)
class Names:
    """Resolver hooks stand in for the operator's DNS where the machine has no namespaces to spare (see island.py).

    Args:
        address: ``host:port`` of the server.
        ca: the authority that the client trusts, besides the public ones in Node.
        folder: where the names are written down.
    """

    address: str
    ca: Path
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        return {
            "NAMES_LEAD_TO": self.address,
            "NAMES_ASKED": str(self.folder / "names"),
            "PYTHONPATH": str(PYTHON),  # its sitecustomize.py is the hook
            "NODE_OPTIONS": f"--import={JAVASCRIPT / 'names.mjs'}",
            "SSL_CERT_FILE": str(self.ca),
            "NODE_EXTRA_CA_CERTS": str(self.ca),
            "FAL_KEY": "any:key",
        }

    @property
    def asked(self) -> set[str]:
        file = self.folder / "names"
        return set(file.read_text().split()) if file.exists() else set()
