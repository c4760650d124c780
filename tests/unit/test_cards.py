"""Driver, CUDA and compute capability: what `veraicon doctor` makes of what the probe reports."""

from typing import Any

import pytest

from pipelines.catalog import CATALOG
from server.cards import architecture_findings, driver_findings, memory_findings, runs_on, stage_of
from server.doctor import cuda_findings
from server.settings import Settings

HOPPER = {"index": 0, "name": "NVIDIA H200", "capability": "9.0", "memory": 150_000_000_000}
REPORT: dict[str, Any] = {
    "torch": "2.13.0",
    "torch_cuda": "13.0",
    "driver": "580.65.06",
    "architectures": ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"],
    "gpus": [HOPPER],
    "execution_providers": ["CUDAExecutionProvider", "CPUExecutionProvider"],
}


def test_a_machine_that_fits_is_ok_and_its_card_named():
    findings = cuda_findings(REPORT)
    assert {finding.level for finding in findings} == {"ok"}
    assert any("H200" in finding.name and "150 GB" in finding.message for finding in findings)


@pytest.mark.parametrize(
    ("driver", "cuda", "level"),
    [
        *(("580.65.06", "13.0", "ok"), ("575.57", "13.0", "stop"), ("550.54", "12.8", "ok"), ("520.1", "12.8", "stop")),
        *((None, "13.0", "stop"), ("580.65", None, "stop")),
    ],
)
def test_the_driver_must_be_new_enough_for_torchs_cuda(driver, cuda, level):
    [finding] = driver_findings(REPORT | {"driver": driver, "torch_cuda": cuda})
    assert finding.level == level


def test_for_an_older_driver_the_list_for_cuda_12_is_named():
    findings = cuda_findings(REPORT | {"driver": "550.54.14", "gpus": []})
    assert ["KIND=gpu-cu12" in finding.remedy for finding in findings] == [True, False]
    assert findings[1].message == "torch sees no NVIDIA GPU"


@pytest.mark.parametrize(("driver", "cuda"), [("470.1", "13.0"), ("520.1", "12.8")])
def test_the_list_for_cuda_12_is_not_named_where_it_would_not_help(driver, cuda):
    [finding] = driver_findings(REPORT | {"driver": driver, "torch_cuda": cuda})
    assert finding.remedy == "update the driver"


def test_a_card_without_kernels_is_named():
    [finding] = architecture_findings(REPORT | {"gpus": [HOPPER | {"name": "Tesla V100", "capability": "7.0"}]})
    assert (finding.level, "V100" in finding.name, "7.0" in finding.message) == ("stop", True, True)


@pytest.mark.parametrize(
    ("capability", "built", "runs"),
    [
        *(
            ("8.9", ["sm_86"], True),
            ("8.0", ["sm_86"], False),
            ("9.0", ["sm_86"], False),
            ("9.0", ["compute_80"], True),
        ),
        *(
            ("12.0", ["sm_120"], True),
            ("10.3", ["sm_100"], True),
            ("9.1", ["sm_90a"], False),
            ("9.0", ["sm_90a"], True),
        ),
        *(("7.0", ["compute_75"], False), ("8.9", [], False)),
    ],
)
def test_which_kernels_run_where(capability, built, runs):
    assert runs_on(capability, built) is runs


@pytest.mark.parametrize(
    ("gigabytes", "profile", "word"),
    [(80, "48gb", "stay"), (25.4, "24gb", "come and go"), (16.9, "16gb", "come and go"), (12.6, "12gb", "come and go")],
)
def test_the_plan_says_what_stays_on_the_card(gigabytes, profile, word):
    report = REPORT | {"gpus": [HOPPER | {"memory": int(gigabytes * 1e9)}]}
    [finding] = memory_findings(report, Settings(), CATALOG)
    assert (finding.level, profile in finding.message, word in finding.message) == ("ok", True, True)


def test_a_card_that_is_too_small_stops():
    report = REPORT | {"gpus": [HOPPER | {"memory": 8_000_000_000}]}
    [finding] = memory_findings(report, Settings(), CATALOG)
    assert finding.level == "stop"


def test_the_operators_choice_wins_over_the_cards_size():
    [finding] = memory_findings(REPORT, Settings(memory_profile="16gb"), CATALOG)
    assert "memory profile 16gb" in finding.message


def test_both_models_together_weigh_what_the_shapes_say():
    """The list of performance.md §1.3, added up; text encoders and VAE are shared, a second ControlNet counted."""
    stages = [stage_of(endpoint, stage) for endpoint in CATALOG for stage in endpoint.stages]
    weights = {name: size for stage in stages for name, size in stage.weights.items()}
    assert sum(weights.values()) / 1e9 == pytest.approx(19.43, abs=0.01)
