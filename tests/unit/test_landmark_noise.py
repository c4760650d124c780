"""scripts/landmark_noise.py runs, and tells a change for every golden photo and every size of noise."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_noise_of_the_landmarks_changes_the_identity_tokens() -> None:
    command = [sys.executable, "-m", "scripts.landmark_noise", "--draws", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    rows = [[float(x) for x in re.findall(r"\d\.\d{3}", line)] for line in done.stdout.splitlines()[2:]]
    assert [len(row) for row in rows] == [3, 3, 3, 3]
    assert all(0 < change < 2 for row in rows for change in row)
