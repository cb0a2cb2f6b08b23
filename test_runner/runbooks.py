"""docs/operations.md as something to run: its command blocks by name."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from cluster import ROOT

DOCUMENT = ROOT / "docs" / "operations.md"


def blocks() -> dict[str, str]:
    return dict(re.findall(r"<!-- runbook: ([\w-]+) -->\n```sh\n(.*?)```", DOCUMENT.read_text(), re.DOTALL))


def execute(name: str, env: dict[str, str], folder: Path, timeout_s: float = 240) -> str:
    """Runs one block as it stands, in `folder`; it must succeed. What it printed."""
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", blocks()[name]], env=env, cwd=folder, capture_output=True, text=True,
                          timeout=timeout_s, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"runbook {name} ended with {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout
