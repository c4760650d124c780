"""The host benchmark as a program. Its bars are checked by `--check` on a quiet machine, not here."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import bench_host

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_it_measures_both_models_against_the_others_and_tells_the_ratios_last() -> None:
    command = [sys.executable, "-m", "scripts.bench_host", "--quick"]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stderr) == (0, "")
    *table, plain, upstream, pulid = done.stdout.splitlines()
    assert [line.split(",")[0] for line in table[1:]] == [*bench_host.BARS, "pulid upstream"]
    for line, name in zip((plain, upstream, pulid), bench_host.BARS, strict=True):
        assert (found := re.fullmatch(rf"ratio {name} (\d+\.\d\d)", line))
        assert float(found[1]) > 1.1, "far below the bar, which leaves room for a busy machine"


def test_one_ratio_below_its_bar_is_enough_to_fail() -> None:
    bars = bench_host.BARS
    assert not bench_host.below_bar(bars)
    for name, bar in bars.items():
        assert bench_host.below_bar({**bars, name: bar - 0.01})
