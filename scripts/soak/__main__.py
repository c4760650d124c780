"""The soak: `python -m scripts.soak --store sqlite|postgresql` (queue.md §3.2).

The real server runs while its processes, and on PostgreSQL its database, are killed at random. Clients submit, poll,
cancel, fetch results and pictures, and take webhooks. At the end every promise is checked: each acknowledged request
has one result, always the same; nothing was made twice; rows, files and webhooks agree. Exits 1 when one was broken.
"""

import argparse
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from scripts.soak.checks import Finding, findings
from scripts.soak.figures import Figures, attempts
from scripts.soak.kept import remaining
from scripts.soak.life import Plan, live
from scripts.soak.orders import MENUS
from scripts.soak.site import LAYOUTS, STORES, NotReady
from server.files import FileStore

MOST_TOLD = 20
"""Findings printed; the others are in findings.txt beside the logs."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", choices=STORES, default="sqlite")
    parser.add_argument("--catalog", choices=MENUS, default="tiny", help="tiny: PuLID; painted: without torch")
    parser.add_argument("--seconds", type=float, default=600, help="how long orders come and blows fall")
    parser.add_argument("--kills-every", type=float, default=3, help="seconds between two blows, plus recovery")
    parser.add_argument("--jobs-per-second", type=float, default=2, help="fewer when too many clients wait")
    parser.add_argument("--seed", type=int, default=1, help="the same seed: the same orders, the same order of blows")
    given = parser.parse_args()
    plan = Plan(given.store, given.catalog, given.seconds, given.kills_every, given.jobs_per_second, given.seed)
    folder = Path(tempfile.mkdtemp(prefix="veraicon-soak-"))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("soak: stopped"))  # not without stopping what it started
    try:
        figures = soak(plan, folder)
    except NotReady as error:
        print(f"soak: {error}", file=sys.stderr)
        return 1
    print(f"{figures.table}\n\n{figures.line}")
    if figures.found:
        tell(figures.found, folder)
        return 1
    shutil.rmtree(folder)
    return 0


def soak(plan: Plan, folder: Path) -> Figures:
    """Start a site, let it live, stop it, and check what is left."""
    with STORES[plan.store](folder) as stores:
        with LAYOUTS[plan.store](folder, stores, MENUS[plan.catalog].catalog) as site:
            site.wait_until_ready(folder)
            life = live(plan, site, stores.database_url, folder)
        left = [Finding("amiss", told) for told in remaining(site.services)]
        life.evidence.write(folder / "evidence.json")
        found = findings(life.evidence, stores.database_url, FileStore(stores.files_url))
        return Figures(plan.store, life, [*found, *left], *attempts(stores.database_url))


def tell(found: list[Finding], folder: Path) -> None:
    """Every finding into a file, the first ones to the terminal."""
    lines = [f"{finding.breach}: {finding.text}" for finding in found]
    (folder / "findings.txt").write_text("\n".join(lines) + "\n")
    print("\n".join(lines[:MOST_TOLD]), file=sys.stderr)
    print(f"soak: {len(lines)} findings; findings.txt, the logs and the stores are in {folder}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
