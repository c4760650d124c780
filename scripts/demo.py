"""`make demo`: a tiny server, one photo through fal's own Python client to both endpoints, pictures in out/."""

import argparse
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BIN = Path(sys.executable).parent
START_LIMIT_S = 120


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photo", type=Path, default=Path(__file__).parent / "data" / "astronaut.png")
    parser.add_argument("--out", type=Path, default=Path("out"))
    arguments = parser.parse_args()
    if not arguments.photo.is_file():
        print(f"demo: there is no photo {arguments.photo}; name one with PHOTO=/path/to/photo.jpg", file=sys.stderr)
        return 2
    arguments.out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    data = Path(tempfile.mkdtemp(prefix="veraicon-demo-"))
    try:
        key = veraicon("keys", "create", "demo", "--data-dir", str(data)).strip().splitlines()[-1]
        with server(data, arguments.out / "server.log") as address:
            code = run_client(address, key, data, arguments)
    finally:
        shutil.rmtree(data, ignore_errors=True)
    if code == 0:
        report(arguments, address, time.monotonic() - began)
    return code


def veraicon(*words: str) -> str:
    """Run the command line tool and return what it printed."""
    return subprocess.run([BIN / "veraicon", *words], check=True, capture_output=True, text=True).stdout


@contextmanager
def server(data: Path, log: Path) -> Iterator[str]:
    """A real server in its own process, with TLS, on a free loopback port; yields host:port."""
    command = [BIN / "veraicon", "serve", "--weights", "tiny", "--tls", "--port", "0", "--data-dir", str(data)]
    print(f"demo: starting the server (its output goes to {log})", flush=True)
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield wait_for_address(process, data / "server.json", log)
    finally:
        process.terminate()
        process.wait(timeout=60)
        print("demo: server stopped", flush=True)


def wait_for_address(process: subprocess.Popen[bytes], marker: Path, log: Path) -> str:
    limit = time.monotonic() + START_LIMIT_S
    while not marker.exists():
        if process.poll() is not None or time.monotonic() > limit:
            raise SystemExit(f"demo: the server did not start. The end of {log}:\n{log.read_text()[-2000:]}")
        time.sleep(0.1)
    return json.loads(marker.read_text())["url"].removeprefix("https://")


def run_client(address: str, key: str, data: Path, arguments: argparse.Namespace) -> int:
    """scripts/demo_client.py is an ordinary program for fal; only these variables point it at this server."""
    environment = os.environ | {
        "FAL_RUN_HOST": address,
        "FAL_QUEUE_RUN_HOST": f"{address}/queue",
        "FAL_KEY": key,
        "SSL_CERT_FILE": str(data / "tls" / "ca.pem"),
    }
    seed = secrets.randbelow(2**31)
    command = [sys.executable, "-m", "scripts.demo_client", str(arguments.photo), str(arguments.out), str(seed)]
    return subprocess.run(command, env=environment, cwd=Path(__file__).parent.parent, check=False).returncode


def report(arguments: argparse.Namespace, address: str, seconds: float) -> None:
    print(
        f"\ndemo: done in {seconds:.0f} s. {arguments.photo} went through fal-client to https://{address};\n"
        f"demo: pictures and answers are in {arguments.out}/\n"
        "demo: the pictures are noise by nature: the tiny profile runs the whole real code on tiny random weights.\n"
        "demo: real pictures need real checkpoints: `.venv/bin/veraicon weights pull` and `prepare`, under their\n"
        "demo: licences; then `make serve WEIGHTS=full`. To keep a tiny server running: `make serve`."
    )


if __name__ == "__main__":
    sys.exit(main())
