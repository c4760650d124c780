"""`veraicon weights …` as a process that knows the hub of the fixture `hub` and no other."""

import subprocess
from pathlib import Path

from tests.hub import Hub
from tests.server_process import veraicon

ACCEPT = ("--accept-licence", "all")
LORA = "pytorch_lora_weights.safetensors"


def ask(tmp_path: Path, manifest: Path, hub: Hub, *words: str) -> subprocess.CompletedProcess[str]:
    return veraicon(
        tmp_path, "weights", *words, weights="full", weights_manifest=manifest, hub_endpoint=hub.url, device="cpu"
    )


def said(ran: subprocess.CompletedProcess[str]) -> str:
    """On both streams, without line breaks."""
    return " ".join((ran.stdout + ran.stderr).split())
