"""docker-compose.yml, its S3 override, .env.example, the Dockerfile, the workflow and the documents agree with each other and with what the
programs read; no engine is needed."""

import json
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

from cluster import RELEASE, ROOT

FILES = [ROOT / "docker-compose.yml", ROOT / "docker-compose.s3.yml"]


@cache
def help_of(*call: str) -> str:
    return subprocess.run([RELEASE / call[0], *call[1:], "--help"], capture_output=True, text=True, check=True).stdout


def known() -> set[str]:
    calls = [("safekeeper",), ("pageserver",), ("compute", "run"), ("ogel", "create-timeline")]
    return set(re.findall(r"OGEL_\w+", "".join(help_of(*call) for call in calls)))


def tracked(*patterns: str) -> dict[str, str]:
    """The text of the repository's files that match."""
    names = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    return {name: (ROOT / name).read_text() for name in names}


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


def test_every_variable_that_people_are_told_of_is_read_by_something():
    """A name that nobody reads is a setting without effect: a typing error, or one that was renamed."""
    code = "".join(tracked("*.rs", "*.py", "*.sh", "Makefile", "pgxn/pg", "docker/*", "docker-compose*.yml", ".railway/railway.ts", "wal-decoder/fuzz/*").values())
    read = known() | set(re.findall(r"""(?:["'$({]|process\.env\.)(OGEL_\w+)""", code)) | set(re.findall(r"^(OGEL_\w+) \?=", code, re.MULTILINE))
    told = tracked("*.md", ".github/workflows/*", ".ci/*", ".env.example", "Dockerfile", "railway.toml", "docker-compose*.yml", ".railway/railway.ts")
    assert len(told) > 10
    unread = {file: names for file, text in told.items() if (names := set(re.findall(r"OGEL_[A-Z0-9_]*[A-Z0-9]", text)) - read)}
    assert unread == {}


@pytest.mark.parametrize("program, call", [("safekeeper", ("safekeeper",)), ("pageserver", ("pageserver",)), ("compute", ("compute", "run"))])
def test_images_start_with_flags_that_the_programs_have(program: str, call: tuple[str, ...]):
    dockerfile = (ROOT / "Dockerfile").read_text()
    stage = dockerfile[dockerfile.index(f" AS {program}\n"):]
    command = json.loads(re.search(r"^ENTRYPOINT (\[.*\])$", stage, re.MULTILINE)[1])
    if command == ["compute-start"]:
        command = re.findall(r"\S+", re.search(r"^compute run .*?[^\\]$", (ROOT / "docker/compute-start").read_text(), re.MULTILINE | re.DOTALL)[0])
    assert Path(command[0]).name == program
    flags = {word for word in command if word.startswith("--")}
    assert flags and flags <= set(re.findall(r"--[a-z-]+", help_of(*call)))


def test_the_workflow_uses_what_is_there():
    """Scripts, make targets, image targets and folders that it names."""
    text = next(iter(tracked(".github/workflows/ci.yml").values()))
    makefile, dockerfile = (ROOT / "Makefile").read_text(), (ROOT / "Dockerfile").read_text()
    for target in re.findall(r"run: make ([\w-]+)", text):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    targets = {name for names in re.findall(r"for target in ([\w ]+);", text) for name in names.split()} | set(re.findall(r"--target (\w+)", text))
    assert {"compute", "artifacts"} <= targets <= set(re.findall(r" AS ([\w-]+)$", dockerfile, re.MULTILINE))
    for path in re.findall(r"working-directory: (\S+)|run: (\.\w+/\w+)", text):
        assert (ROOT / "".join(path)).exists(), path


def test_the_table_of_the_readme_names_every_target():
    """Whoever reads only the README finds all there is to run."""
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)) - {"help", "build"}
    readme = (ROOT / "README.md").read_text()
    missing = {target for target in targets if not re.search(rf"`make {target}[` ]|`{target}`", readme)}
    assert missing == set()
