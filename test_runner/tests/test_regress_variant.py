"""A variant lets through the difference that it names, and nothing else."""

from pathlib import Path

import pytest

import regress_variant

EXPECTED = "SELECT * FROM slots;\n name \n------\n(0 rows)\n\nSELECT 1;\n 1\n"
OURS = EXPECTED.replace("(0 rows)", " ogel 4711\n(1 row)")
VARIANT = """# subject: pg_replslot/ogel
# reason: the supervisor's slot is listed
# mask: ^( ogel )\\d+ → \\1N
--- slots.out
+++ ours
@@ -3,2 +3,3 @@
 ------
-(0 rows)
+ ogel N
+(1 row)
"""


def met(folder: Path, output: str) -> bool:
    (folder / "slots.out").write_text(EXPECTED)
    (folder / "slots.diff").write_text(VARIANT)
    result = folder / "results"
    result.mkdir()
    (result / "slots.out").write_text(output)
    return regress_variant.read(folder / "slots.diff").met(folder, result / "slots.out")


@pytest.mark.parametrize(("output", "accepted"), [
    (OURS, True),
    (OURS.replace("4711", "815"), True),
    (OURS.replace("ogel", "other"), False),
    (OURS.replace("SELECT 1;\n 1", "SELECT 1;\n 2"), False),
    (EXPECTED, False),
    ("", False),
])
def test_only_the_named_difference_is_accepted(tmp_path: Path, output: str, accepted: bool):
    assert met(tmp_path, output) == accepted


@pytest.mark.parametrize("missing", ["# subject", "# reason", "--- slots.out"])
def test_a_variant_says_what_it_is_about(tmp_path: Path, missing: str):
    path = tmp_path / "slots.diff"
    path.write_text("\n".join(line for line in VARIANT.splitlines() if not line.startswith(missing)))
    with pytest.raises(ValueError, match="begins with"):
        regress_variant.read(path)


def test_every_variant_is_readable():
    for folder in regress_variant.FOLDER.iterdir():
        for path in folder.glob("*.diff"):
            regress_variant.read(path)
