"""The card's memory as this process uses it, for the metrics. Loads torch."""

import torch


def memory_in_use(device: str) -> dict[str, int]:
    """Bytes by kind; asks torch's own books, so it neither waits for the device nor disturbs it.

    Args:
        device: torch's name of a card, e.g. ``"cuda"`` or ``"cuda:1"``.

    Returns:
        ``allocated``: in tensors; ``reserved``: kept by torch, these included; ``total``: of the whole card.
    """
    return {
        "allocated": torch.cuda.memory_allocated(device),
        "reserved": torch.cuda.memory_reserved(device),
        "total": torch.cuda.get_device_properties(device).total_memory,
    }
