"""The self-test: the first real run on a user's machine; what `python -m pipelines.selftest` found, judged."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from server.checks import Finding
from server.settings import Settings, child_environment
from server.worker.models import profile_of, weights_root

Fact = dict[str, Any]

LIKELY = (0.35, 0.95)
"""Cosine of ArcFace embeddings, photo against picture. Not yet confirmed by us on real weights."""
MOST_ERROR = 0.05
"""Of half precision against float32, relative, at the last step. Not yet confirmed by us."""
FLAT = 2.0
"""Standard deviation, of 0 to 255, below which a picture shows nothing."""
SEND_BACK = "send this folder back with your question: it holds no picture of yours and no key"
LOOK = f"look at the picture; {SEND_BACK}"


class SelfTestError(Exception):
    """The self-test did not run to its end; the message holds its last words."""


def run(settings: Settings, out: Path) -> Iterator[Fact]:
    """The facts as they come. Raises SelfTestError."""
    out.mkdir(parents=True, exist_ok=True)
    profile = json.dumps(asdict(profile_of(settings)), default=str)
    program = [sys.executable, "-m", "pipelines.selftest", str(weights_root(settings).absolute())]
    with (out / "errors.log").open("w") as errors:
        options = ["--out", str(out.absolute()), "--profile", profile]
        pipes = {"stdout": subprocess.PIPE, "stderr": errors}
        with subprocess.Popen([*program, *options], env=child_environment(settings), text=True, **pipes) as process:
            assert process.stdout is not None
            for line in process.stdout:
                with suppress(ValueError):  # a library that prints
                    yield json.loads(line)
    if code := process.returncode:
        last = (out / "errors.log").read_text().strip().splitlines()[-1:]
        raise SelfTestError(f"the self-test ended with status {code}: {''.join(last)}. The rest: {out / 'errors.log'}")


def judged(facts: Sequence[Fact], tiny: bool) -> list[Finding]:
    """What the facts mean: pictures, likeness, precision."""
    found = [Finding(fact["endpoint"], "stop", fact["error"], SEND_BACK) for fact in facts if fact["fact"] == "failed"]
    for fact in facts:
        if fact["fact"] == "not compared":
            message = f"not compared with float32, which needs twice the memory: {fact['error']}"
            found.append(Finding(f"{fact['endpoint']} precision", "warn", message, "nothing, if the card is small"))
        if fact["fact"] == "generated" and fact["run"] > 1:
            found += [picture_finding(fact), likeness_finding(fact, tiny)]
        if fact["fact"] == "precision":
            found.append(precision_finding(fact, tiny))
    return found


def picture_finding(fact: Fact) -> Finding:
    """Whether the picture shows anything."""
    picture, name = fact["picture"], f"{fact['endpoint']} picture"
    told = f"{picture['width']}x{picture['height']}, mean {picture['mean']:.0f}, deviation {picture['std']:.1f}"
    if picture["std"] < FLAT:
        return Finding(name, "stop", f"the picture is black or of one colour: {told}", SEND_BACK)
    return Finding(name, "ok", told)


def likeness_finding(fact: Fact, tiny: bool) -> Finding:
    """Whether the picture shows the person in the photo."""
    name, likeness = f"{fact['endpoint']} likeness", fact["measured"].get("identity_similarity")
    if tiny:
        return Finding(name, "ok", "not judged: on tiny weights every picture is noise by nature")
    expected = f"{LIKELY[0]} to {LIKELY[1]} expected, a range not yet confirmed by us"
    if likeness is None:
        return Finding(name, "warn", f"no face was found in the picture ({expected})", LOOK)
    if not LIKELY[0] <= likeness <= LIKELY[1]:
        return Finding(name, "warn", f"{likeness:.2f} ({expected})", LOOK)
    return Finding(name, "ok", f"{likeness:.2f} ({expected})")


def precision_finding(fact: Fact, tiny: bool) -> Finding:
    """Half precision against float32."""
    expected = f"up to {MOST_ERROR:.0%} expected, not yet confirmed by us"
    told = f"{fact['dtype']} differs from float32 by {fact['error']:.2%} ({expected})"
    if not tiny and not fact["error"] <= MOST_ERROR:  # NaN is not
        return Finding(f"{fact['endpoint']} precision", "warn", told, SEND_BACK)
    return Finding(f"{fact['endpoint']} precision", "ok", told)


def report(facts: Sequence[Fact], findings: Sequence[Finding], settings: Settings) -> str:
    """The report as Markdown, with every fact at its end as JSON."""
    lines = [
        f"# Self-test of {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "",
        f"Veraicon {version('veraicon')}, weights: {settings.weights}.",
        "",
    ]
    lines += [f"- {one.level}: {one.name}: {one.message}" for one in findings]
    lines += ["", "| endpoint | run | " + " | ".join(stages_of(facts)) + " |"]
    lines += ["|" + "---|" * (2 + len(stages_of(facts)))]
    for fact in facts:
        if fact["fact"] == "generated":
            seconds = " | ".join(f"{value:.3f} s" for value in fact["stages"].values())
            lines.append(f"| {fact['endpoint']} | {fact['run']} | {seconds} |")
    return "\n".join([*lines, "", "```json", *(json.dumps(fact) for fact in facts), "```", ""])


def stages_of(facts: Sequence[Fact]) -> list[str]:
    return next((list(fact["stages"]) for fact in facts if fact["fact"] == "generated"), [])
