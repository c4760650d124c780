"""Run in namespaces of its own (tests.clients.island.way_in): a client's machine, and what `check.py` says there.

`python -m tests.dropin_room FOLDER` prints case -> [exit status, output] as JSON.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.clients.island import settle
from tests.server_process import ROOT, ServerProcess, veraicon

CHECK = ROOT / "server" / "dropin" / "check.py"


def main(folder: Path) -> None:
    settle(folder)
    data = folder / "data"
    data.mkdir()
    key = re.search(r"[0-9a-f-]{36}:[0-9a-f]{64}", veraicon(data, "keys", "create", "studio").stdout).group()
    with ServerProcess(data, "api", "--tls", port=443, catalog="tests.pipelines.catalog:CATALOG") as server:
        ca = str(server.ca_file)
        cases = {
            "python": check("python", FAL_KEY=key, SSL_CERT_FILE=ca),
            "js": check(
                "js", FAL_KEY_ID=key.partition(":")[0], FAL_KEY_SECRET=key.partition(":")[2], NODE_EXTRA_CA_CERTS=ca
            ),
            "nothing set": check("js"),
            "wrong key": check("curl", FAL_KEY="a:b", SSL_CERT_FILE=ca),
            "own name": check(
                "python", FAL_KEY=key, SSL_CERT_FILE=ca, FAL_RUN_HOST="localhost", FAL_QUEUE_RUN_HOST="localhost/queue"
            ),
        }
    print(json.dumps(cases))


def check(client: str, **variables: str) -> tuple[int, str]:
    """The one file, by itself, as on a machine without Veraicon."""
    environment = {"PATH": os.environ["PATH"], **variables}
    command = [sys.executable, "-S", "-I", str(CHECK), "--client", client, "--address", "127.0.0.1"]
    done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


if __name__ == "__main__":
    main(Path(sys.argv[1]))
