"""From the end of a job to the return of `subscribe`: `python -m scripts.bench_subscribe`.

fal's own clients, unchanged, against a real server over TLS, with held polls and without, by turns. The end is the
queue's finished_at, the return the client's clock, on one machine. Jobs last 0.7 to 1.7 s, so that they end anywhere
between two polls. The JavaScript client needs Node and `make test-clients`' packages; without them it is left out, and
said so.
"""

import argparse
import json
import random
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.progress import track

from scripts.load import facts, quantile
from tests.server_process import ROOT, ServerProcess, environment

JS = ROOT / "tests" / "clients" / "js"
PYTHON = """
import json, sys, time
import fal_client
for body in json.loads(sys.argv[1]):
    ids = []
    fal_client.subscribe("test/blue-square", body, with_logs=sys.argv[2] == "logs", on_enqueue=ids.append)
    print(ids[0], time.time(), flush=True)
"""
JAVASCRIPT = """
const { createRequire } = require("node:module");
const { fal } = createRequire(process.argv[1] + "/")("@fal-ai/client");
fal.config({ proxyUrl: { url: process.argv[2] + "/api/fal/proxy", when: "always" }, credentials: "any" });
(async () => {
  for (const input of JSON.parse(process.argv[3])) {
    const { requestId } = await fal.subscribe("test/blue-square", { input, logs: process.argv[4] === "logs" });
    console.log(requestId, Date.now() / 1000);
  }
})();
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=20, help="jobs per client and turn")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--without-logs", action="store_true", help="clients that want no log lines")
    arguments = parser.parse_args()
    clients = ["fal-client"] + (["@fal-ai/client"] if shutil.which("node") and (JS / "node_modules").exists() else [])
    if len(clients) == 1:
        print("NOT MEASURED: @fal-ai/client (no Node, or its packages are not installed)")
    found: dict[tuple[str, int], list[float]] = {(client, hold): [] for client in clients for hold in (0, 400)}
    with tempfile.TemporaryDirectory() as name:
        print(facts(Path(name)))
        for turn in track(range(arguments.turns), "measuring"):
            for hold in (0, 400):
                folder = Path(name) / f"{turn}-{hold}"
                folder.mkdir()
                with ServerProcess(
                    folder, "serve", "--tls", catalog="tests.pipelines.catalog:CATALOG", hold_status_ms=hold
                ) as server:
                    for client in clients:
                        found[client, hold] += measure(server, client, arguments.jobs, not arguments.without_logs)
        print(facts(Path(name)))
    print(f"{'client':16}{'hold ms':>8}{'jobs':>6}{'p50 ms':>9}{'p90 ms':>9}{'max ms':>9}")
    for (client, hold), took in found.items():
        middle, late = statistics.median(took) * 1000, quantile(took, 0.9) * 1000
        print(f"{client:16}{hold:8}{len(took):6}{middle:9.0f}{late:9.0f}{max(took) * 1000:9.0f}")
    return 0


def measure(server: ServerProcess, client: str, jobs: int, logs: bool) -> list[float]:
    """Seconds from each job's end to the return of its `subscribe`."""
    lasts = random.Random(7)
    bodies = [{"prompt": "one", "steps": 4, "step_s": lasts.uniform(0.7, 1.7) / 4} for _ in range(jobs)]
    address = server.url.partition("://")[2]
    variables = {
        "FAL_RUN_HOST": address,
        "FAL_QUEUE_RUN_HOST": f"{address}/queue",
        "FAL_KEY": "any:key",
        "SSL_CERT_FILE": str(server.ca_file),
        "NODE_EXTRA_CA_CERTS": str(server.ca_file),
    }
    done = subprocess.run(
        [*command(client, server.url), json.dumps(bodies), "logs" if logs else "no logs"],
        env=environment(server.data_dir) | variables,
        capture_output=True,
        text=True,
        timeout=60 + 5 * jobs,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{client} failed: {done.stderr[-2000:]}")
    return delays(server.data_dir / "queue.db", [line.split() for line in done.stdout.splitlines()])


def command(client: str, url: str) -> list[str]:
    if client == "fal-client":
        return [sys.executable, "-c", PYTHON]
    return ["node", "-e", JAVASCRIPT, str(JS), url]


def delays(database: Path, returns: Sequence[Sequence[str]]) -> list[float]:
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    ends = dict(connection.execute("select id, finished_at from jobs"))
    connection.close()
    return [float(moment) - ends[request_id] for request_id, moment in returns]


if __name__ == "__main__":
    sys.exit(main())
