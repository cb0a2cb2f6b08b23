"""The Railway project: its description type-checks, describes what the snapshot says, and every start command is one that our programs take."""

import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from functools import cache
from hashlib import sha256
from pathlib import Path

import pytest
import tomllib

from cluster import RELEASE, ROOT, pg_manifest
from engine import cache_folder

PROJECT = ROOT / ".railway"
SNAPSHOT = PROJECT / "resources.json"
# What the platform itself reads.
PLATFORM = {"PORT", "RAILWAY_RUN_UID"}
SHARED = {
    "OGEL_REMOTE": "s3://bucket/ogelbase",
    "OGEL_S3_ENDPOINT": "https://account.r2.cloudflarestorage.com",
    "OGEL_S3_ACCESS_KEY_ID": "id",
    "OGEL_S3_SECRET_ACCESS_KEY": "secret",
}


@cache
def packages() -> Path:
    """The pinned packages, fetched once into the tests' cache."""
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.skip("node and npm are not installed")
    folder = cache_folder() / f"railway-{sha256((PROJECT / 'package.json').read_bytes()).hexdigest()[:16]}"
    if not (folder / ".complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        shutil.copy(PROJECT / "package.json", folder)
        done = subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--no-package-lock"], cwd=folder, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, f"the packages of .railway/package.json cannot be installed: {done.stderr[-2000:]}"
        (folder / ".complete").touch()
    return folder


@pytest.fixture(scope="module")
def workspace():
    """A copy of the project beside its packages."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in ("railway.ts", "package.json", "tsconfig.json", "evaluate.mjs"):
            shutil.copy(PROJECT / file, folder)
        (folder / "node_modules").symlink_to(packages() / "node_modules")
        yield folder


@pytest.fixture(scope="module")
def resources(workspace: Path) -> dict[str, dict]:
    return {resource["address"]: resource for resource in evaluate(workspace)["resources"]}


def evaluate(workspace: Path) -> dict:
    env = {name: value for name, value in os.environ.items() if not name.startswith("OGEL_")}
    done = subprocess.run(["node", "evaluate.mjs"], cwd=workspace, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_it_type_checks(workspace: Path):
    tsc = workspace / "node_modules" / ".bin" / "tsc"
    done = subprocess.run([tsc, "-p", "."], cwd=workspace, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout

    source = (workspace / "railway.ts").read_text()
    (workspace / "railway.ts").write_text(source.replace("drainingSeconds: 60", "drainingSeconds: 'long'"))
    done = subprocess.run([tsc, "-p", "."], cwd=workspace, capture_output=True, text=True, timeout=120)
    (workspace / "railway.ts").write_text(source)
    assert done.returncode != 0 and "not assignable" in done.stdout, "the check can fail"


def test_it_describes_what_the_snapshot_says(workspace: Path):
    """What is missing in a plan is destroyed with its data, so a change must be seen. OGEL_UPDATE_SNAPSHOT=1 writes it."""
    evaluated = evaluate(workspace)
    if os.environ.get("OGEL_UPDATE_SNAPSHOT"):
        SNAPSHOT.write_text(json.dumps(evaluated, indent=2) + "\n")
    assert evaluated == json.loads(SNAPSHOT.read_text())


def test_whatever_holds_data_has_a_volume_and_time_to_stop(resources: dict[str, dict]):
    for name in ("safekeeper-1", "safekeeper-2", "safekeeper-3", "pageserver"):
        service = resources[f"service.{name}"]
        assert [attached["mountPath"] for attached in service["volumeAttachments"].values()] == ["/data"]
        assert service["deploy"]["requiredMountPath"] == "/data" and service["deploy"]["drainingSeconds"] >= 30
    for resource in resources.values():
        if resource["type"] == "service":
            assert resource["deploy"]["sleepApplication"] is False, "a sleeping acceptor votes for nobody"
    assert resources["service.compute"]["networking"]["tcpProxies"], "SQL is served to the outside"
    secrets = [resources[f"service.{name}"]["variables"][variable] for name, variable in
               (("compute", "OGEL_PASSWORD"), ("pageserver", "OGEL_S3_SECRET_ACCESS_KEY"), ("safekeeper-1", "OGEL_S3_SECRET_ACCESS_KEY"))]
    assert all(secret["type"] in ("preserve", "sharedReference") for secret in secrets), "secrets are not in the file"


@pytest.mark.parametrize("name", ["safekeeper-1", "safekeeper-2", "safekeeper-3", "pageserver", "compute"])
def test_our_programs_take_its_settings(resources: dict[str, dict], name: str, tmp_path: Path):
    service = resources[f"service.{name}"]
    env = {key: plain_value(value) for key, value in service["variables"].items()}
    command = shlex.split(service["deploy"]["startCommand"])
    if command == ["compute-start"]:
        command = ["compute", "run", "--data-dir", str(tmp_path), "--pg-prefix", pg_manifest()["patched"], "--ext-dir", str(RELEASE / "ext")]
    command = [pg_manifest()["template"] if word.endswith("template.tar.zst") else word for word in command]
    done = subprocess.run([RELEASE / command[0], *command[1:], "--check-config"], env=env, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0 and "settings are good" in done.stdout, done.stderr
    known = known_variables(command[0])
    assert set(env) - PLATFORM <= known, f"{name} is told what nobody reads: {set(env) - PLATFORM - known}"


def plain_value(value: dict) -> str:
    """As the platform would hand it over."""
    return {"preserve": lambda: "kept", "sharedReference": lambda: SHARED[value["name"]], "literal": lambda: value["value"]}[value["type"]]()


def known_variables(program: str) -> set[str]:
    """Those that the program's help names; a compute's container also runs create-timeline."""
    calls = {"compute": [["compute", "run"], ["ogel", "create-timeline"]]}.get(program, [[program]])
    helps = "".join(subprocess.run([RELEASE / call[0], *call[1:], "--help"], capture_output=True, text=True).stdout for call in calls)
    return set(re.findall(r"OGEL_\w+", helps))


def test_the_legacy_file_still_parses():
    legacy = tomllib.loads((ROOT / "railway.toml").read_text())
    assert legacy["build"]["dockerfilePath"] == "Dockerfile" and set(legacy) == {"build", "deploy"}
