"""What a worker tells of its card."""

import pytest
import torch

from pipelines.card import memory_in_use

pytestmark = pytest.mark.gpu


def test_the_books_know_a_tensor_and_the_card():
    before = memory_in_use("cuda")
    tensor = torch.zeros(64_000_000, dtype=torch.uint8, device="cuda")
    now = memory_in_use("cuda")
    assert now["allocated"] - before["allocated"] >= tensor.nbytes
    assert before["allocated"] <= before["reserved"] <= now["reserved"] <= now["total"]
