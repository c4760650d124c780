"""The probe tells what can really be used, which is less than what is installed."""

import json
import subprocess
import sys

import torch

from pipelines.probe import really_runs


def test_the_report_is_json_that_agrees_with_torch():
    done = subprocess.run([sys.executable, "-m", "pipelines.probe"], capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    assert report["torch"] == torch.__version__
    assert [gpu["index"] for gpu in report["gpus"]] == list(range(torch.cuda.device_count()))
    assert "CPUExecutionProvider" in report["execution_providers"]
    assert set(report["execution_providers"]) <= set(report["compiled_providers"])
    assert ("CUDAExecutionProvider" in report["execution_providers"]) <= bool(report["gpus"])


def test_a_provider_that_falls_back_is_not_usable():
    assert really_runs("CPUExecutionProvider")
    if not torch.cuda.is_available():
        assert not really_runs("CUDAExecutionProvider")
