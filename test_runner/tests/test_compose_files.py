"""docker-compose.yml, its S3 override and .env.example agree with each other and with what the programs read; no engine is needed."""

import re
import subprocess

from cluster import RELEASE, ROOT

FILES = [ROOT / "docker-compose.yml", ROOT / "docker-compose.s3.yml"]


def known() -> set[str]:
    calls = [["safekeeper"], ["pageserver"], ["compute", "run"], ["ogel", "create-timeline"]]
    return set(re.findall(r"OGEL_\w+", "".join(subprocess.run([RELEASE / call[0], *call[1:], "--help"], capture_output=True, text=True).stdout for call in calls)))


def test_every_variable_that_is_set_is_read_by_a_program():
    text = "".join(file.read_text() for file in FILES)
    variables = set(re.findall(r"^\s+(OGEL_\w+):|(?<!\$)[{,]\s*(OGEL_\w+):", text, re.MULTILINE))
    assert {name for pair in variables for name in pair if name} - known() == set()


def test_the_example_names_what_the_files_ask_for():
    asked = set(re.findall(r"\$\{(OGEL_\w+)", "".join(file.read_text() for file in FILES)))
    example = set(re.findall(r"^#?(OGEL_\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert asked == example


def test_defaults_in_the_example_are_those_of_the_files():
    text = "".join(file.read_text() for file in FILES)
    for name, value in re.findall(r"^#?(OGEL_\w+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE):
        assert f"${{{name}:-{value}}}" in text or f"${{{name}:?" in text and value == "", name
