"""The benchmarks of the server run: what they measure is told by docs/benchmarks, not here."""

import subprocess
import sys

import pytest

from tests.server_process import ROOT

RUNS = {
    "bench_server": (["--quick", "--without-litserve"], ["submit", "run", "idle CPU", "NOT MEASURED: LitServe"]),
    "bench_queue": (
        ["--quick", "--store", "sqlite"],
        ["floor:", "submit to claim p50", "4 workers, 8 at a time", "idle"],
    ),
    "bench_polling": (["--quick", "--clients", "8"], ["jobs/s", "median hold 400 ms"]),
}


@pytest.mark.parametrize("script", RUNS)
def test_the_benchmark_runs_and_prints_its_figures(script):
    words, expected = RUNS[script]
    command = [sys.executable, "-m", f"scripts.{script}", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)

    assert done.returncode == 0, done.stderr
    assert all(text in done.stdout for text in expected), done.stdout
