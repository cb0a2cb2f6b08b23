"""Output of a test of PostgreSQL's that is right on a compute and not PostgreSQL's: `regress_variants/SUITE/TEST.diff`.

    # subject: the part of the data directory that the difference is about
    # reason: why it is as it is
    # mask: PATTERN → TEXT      (any number; applied to our output, for process ids and WAL positions)
    --- TEST.out                 (the expected file of PostgreSQL that it is a difference from)
    +++ ours
    @@ …
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).with_name("regress_variants")


@dataclass(frozen=True)
class Variant:
    test: str
    subject: str
    reason: str
    masks: tuple[tuple[str, str], ...]
    base: str
    path: Path

    def masked(self, output: str) -> str:
        for pattern, text in self.masks:
            output = re.sub(pattern, text, output, flags=re.M)
        return output

    def met(self, expected: Path, result: Path) -> bool:
        """Whether the test's output is PostgreSQL's with this difference, white space aside, as `pg_regress` compares."""
        wanted = result.with_suffix(".variant")
        patch = ["patch", "--quiet", "--batch", "--reject-file=-", f"--output={wanted}", str(expected / self.base), str(self.path)]
        if subprocess.run(patch, capture_output=True).returncode != 0:
            return False
        found = result.with_suffix(".masked")
        found.write_text(self.masked(result.read_text(errors="replace")))
        return subprocess.run(["diff", "-wq", str(wanted), str(found)], capture_output=True).returncode == 0


def read(path: Path) -> Variant:
    """Raises when the file does not say what it is about and why."""
    text = path.read_text()
    head = dict(re.findall(r"^# (subject|reason): (.+)$", text, re.M))
    base = re.search(r"^--- (\S+\.out)$", text, re.M)
    if len(head) != 2 or base is None:
        raise ValueError(f"{path}: a variant begins with '# subject:', '# reason:' and names its expected file in '---'")
    masks = re.findall(r"^# mask: (.+) → (.*)$", text, re.M)
    return Variant(path.stem, head["subject"], head["reason"], tuple(masks), base.group(1), path)


def of_suite(name: str) -> dict[str, Variant]:
    """The variants of a suite, by test."""
    return {path.stem: read(path) for path in sorted((FOLDER / name.replace("/", "-")).glob("*.diff"))}


def write(suite: str, test: str, subject: str, reason: str, expected: Path, result: Path) -> Path:
    """Makes the variant that a result needs, from the expected file that is nearest to it. Masks of an earlier one are kept."""
    path = FOLDER / suite.replace("/", "-") / f"{test}.diff"
    masks = read(path).masks if path.exists() else ()
    found = result.with_suffix(".masked")
    found.write_text(Variant(test, subject, reason, masks, "", path).masked(result.read_text(errors="replace")))
    bases = [base for base in expected.glob(f"{test}*.out") if re.fullmatch(rf"{re.escape(test)}(_\d)?", base.stem)]
    diffs = [(subprocess.run(["diff", "-wU1", f"--label={base.name}", "--label=ours", str(base), str(found)], capture_output=True, text=True).stdout) for base in bases]
    lines = [f"# subject: {subject}", f"# reason: {reason}", *(f"# mask: {pattern} → {text}" for pattern, text in masks)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n" + min(diffs, key=len))
    return path
