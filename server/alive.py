"""Alive: the probe of containers that answer HTTP or HTTPS: ``python -m server.alive DATA_DIR``.

Exit status 0 when /health answers at the address that the server wrote into its data folder, else 1 and why. It is
asked every few seconds, so that it is made of the standard library only.
"""

import json
import ssl
import sys
import urllib.request
from pathlib import Path

TIMEOUT_S = 2.0


def main() -> int:
    """The exit status."""
    try:
        ask(Path(sys.argv[1]))
    except Exception as error:  # whatever it is, it means that the server does not answer
        sys.stderr.write(f"not alive: {type(error).__name__}: {error}\n")
        return 1
    return 0


def ask(data_dir: Path) -> None:
    """Returns once /health has answered 200. Raises OSError, ValueError, LookupError."""
    url = json.loads((data_dir / "server.json").read_text())["url"]
    # The certificate is made for the names that clients use, not for the one by which a machine knows itself.
    unchecked = ssl.create_default_context()
    unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
    direct = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=unchecked)
    )
    direct.open(f"{url}/health", timeout=TIMEOUT_S).close()


if __name__ == "__main__":
    sys.exit(main())
