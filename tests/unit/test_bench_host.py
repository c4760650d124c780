"""The host benchmark as a program. Its bars are checked by `--check` on a quiet machine, not here."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import bench_host

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_it_measures_both_models_and_tells_their_ratios_last() -> None:
    command = [sys.executable, "-m", "scripts.bench_host", "--quick"]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stderr) == (0, "")
    *table, instantid, pulid = done.stdout.splitlines()
    assert [re.sub(r"\s.*", "", line) for line in table] == ["host", "instantid,", "pulid,", "pulid,"]
    for line, name in ((instantid, "instantid"), (pulid, "pulid")):
        assert (found := re.fullmatch(rf"ratio {name} (\d+\.\d\d)", line))
        assert float(found[1]) > 1.1, "far below the bar, which leaves room for a busy machine"


def test_one_ratio_below_its_bar_is_enough_to_fail() -> None:
    bars = bench_host.BARS
    assert not bench_host.below_bar(bars)
    for model, bar in bars.items():
        assert bench_host.below_bar({**bars, model: bar - 0.01})
