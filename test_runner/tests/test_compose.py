"""docker-compose.yml keeps its promises: SQL soon after `up`, and whatever is killed, re-created or thrown away, nothing acknowledged is lost."""

import subprocess
import time
from typing import Iterator

import pytest

from cluster import RELEASE, ROOT, wait_until
from composed import SERVICES, ComposeProject
from engine import Engine
from ministack import BUCKET, Ministack
from recorder import Recorder
from runbooks import execute

LIMIT_MB = {"safekeeper": 80, "pageserver": 80, "compute": 250}

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = Engine()
    yield engine
    engine.stop()


@pytest.fixture(scope="module")
def sizes(engine: Engine) -> dict[str, int]:
    return engine.build()


@pytest.fixture(scope="module")
def project(engine: Engine, sizes: dict[str, int]) -> Iterator[ComposeProject]:
    project = ComposeProject(engine)
    try:
        yield project
    finally:
        project.write_transcript(RELEASE.parent / "compose-transcript.txt")
        project.remove()


@pytest.fixture(scope="module")
def recorder(project: ComposeProject) -> Recorder:
    """Remembers over all tests of this module what was acknowledged."""
    seconds = project.up()
    assert seconds <= 30, f"SQL took {seconds:.1f} s"
    return Recorder(project, writers=2).create()


def commits_go_on(recorder: Recorder, count: int = 20) -> None:
    before = recorder.count()
    wait_until(lambda: recorder.count() >= before + count, "commits go on", timeout_s=120)


def test_images_are_small(sizes: dict[str, int]):
    megabytes = {target: size / 1e6 for target, size in sizes.items()}
    print(", ".join(f"{target} {size:.1f} MB" for target, size in megabytes.items()))
    for target, size in megabytes.items():
        assert size <= LIMIT_MB[target], f"the image {target} has {size:.1f} MB"


@pytest.mark.parametrize("target", SERVICES)
def test_no_service_runs_as_root(project: ComposeProject, recorder: Recorder, target: str):
    pid = project.container(target)["State"]["Pid"]
    owner = subprocess.run(["ps", "-o", "uid=", "-p", str(pid)], capture_output=True, text=True, check=True).stdout.strip()
    assert owner == "10001"


@pytest.mark.parametrize("service", SERVICES)
def test_a_killed_process_loses_nothing(project: ComposeProject, recorder: Recorder, service: str):
    recorder.start()
    commits_go_on(recorder)
    project.kill_process(service)
    commits_go_on(recorder)
    recorder.stop().check()


@pytest.mark.parametrize("service", SERVICES)
def test_a_recreated_container_loses_nothing(project: ComposeProject, recorder: Recorder, service: str):
    recorder.start()
    commits_go_on(recorder)
    old = project.compose_id(service)
    project.compose("up", "-d", "--no-build", "--no-deps", "--force-recreate", service)
    assert project.compose_id(service) != old
    project.healthy(service)
    commits_go_on(recorder)
    recorder.stop().check()


def test_all_stop_cleanly_within_their_grace(project: ComposeProject, recorder: Recorder):
    project.compose("stop")
    for service in SERVICES:
        state = project.container(service)["State"]
        assert state["ExitCode"] == 0, f"{service} was stopped with {state['ExitCode']}:\n{project.logs(service)}"
    project.up()
    recorder.check()


def test_down_and_up_loses_nothing(project: ComposeProject, recorder: Recorder):
    recorder.start()
    commits_go_on(recorder)
    recorder.stop()
    project.compose("down")
    seconds = project.up()
    assert seconds <= 30, f"SQL took {seconds:.1f} s"
    recorder.check()


def test_the_pageservers_volume_may_be_deleted(project: ComposeProject, recorder: Recorder):
    recorder.start()
    commits_go_on(recorder)
    started = time.monotonic()
    project.compose("rm", "-s", "-f", "pageserver")
    project.engine.run("volume", "rm", project.volume("pageserver"))
    project.compose("up", "-d", "--no-build", "--no-deps", "pageserver")
    project.healthy("pageserver")
    commits_go_on(recorder)
    project.note("pageserver and its volume removed, made again, commits seen", time.monotonic() - started)
    recorder.stop().check()
    # Nor is anything kept in the compute's memory only.
    project.compose("up", "-d", "--no-build", "--no-deps", "--force-recreate", "compute")
    project.serves()
    recorder.check()


@pytest.mark.parametrize("name, env", [
    ("compose-lost-safekeeper", {}),
    ("compose-lost-pageserver", {}),
    # A change of the environment makes new containers, as a new image does.
    ("compose-upgrade", {"OGEL_LOG_FORMAT": "json"}),
])
def test_runbook(project: ComposeProject, recorder: Recorder, name: str, env: dict[str, str]):
    recorder.start()
    commits_go_on(recorder)
    started = time.monotonic()
    before = project.compose_id("compute")
    execute(name, project.env | {"COMPOSE_PROJECT_NAME": project.name} | env, ROOT)
    project.note(f"runbook {name}", time.monotonic() - started)
    commits_go_on(recorder)
    recorder.stop().check()
    assert (project.compose_id("compute") != before) == bool(env)


def test_with_a_bucket(engine: Engine, sizes: dict[str, int]):
    """The S3 override: nothing lies in the volume, and nothing is lost with the pageserver's. A key that is refused is said, not waited for."""
    server = Ministack(engine.host_address())
    settings = server.environment("")
    bucket = {name: settings[name] for name in ("OGEL_S3_ENDPOINT", "OGEL_S3_REGION", "OGEL_S3_ACCESS_KEY_ID", "OGEL_S3_SECRET_ACCESS_KEY")}
    project = ComposeProject(engine, bucket | {"OGEL_S3_BUCKET": BUCKET})
    try:
        seconds = project.up()
        assert seconds <= 30, f"SQL took {seconds:.1f} s"
        recorder = Recorder(project, writers=2).create().start()
        commits_go_on(recorder)
        project.compose("rm", "-s", "-f", "pageserver")
        project.engine.run("volume", "rm", project.volume("pageserver"))
        project.compose("up", "-d", "--no-build", "--no-deps", "pageserver")
        project.healthy("pageserver")
        commits_go_on(recorder)
        recorder.stop()
        project.compose("down")
        project.up()
        recorder.check()
        project.env["OGEL_S3_BUCKET"] = "no-such-bucket"
        started = time.monotonic()
        project.compose("up", "-d", "--no-build", "--no-deps", "--force-recreate", "pageserver")
        wait_until(lambda: "OGEL_REMOTE" in project.logs("pageserver"), "the pageserver says what to change", timeout_s=10)
        project.note("an absent bucket, until the log names the variable", time.monotonic() - started)
    finally:
        project.write_transcript(RELEASE.parent / "compose-s3-transcript.txt")
        project.remove()
        server.stop()


def test_the_bucket_must_be_named(project: ComposeProject):
    """The S3 override says which variable is missing before anything is started."""
    command = [*project.engine.compose, "-f", "docker-compose.yml", "-f", "docker-compose.s3.yml", "config"]
    bucket = {"OGEL_S3_BUCKET": "pages", "OGEL_S3_ENDPOINT": "https://s3.example", "OGEL_S3_ACCESS_KEY_ID": "id", "OGEL_S3_SECRET_ACCESS_KEY": "secret"}
    complete = subprocess.run(command, cwd=ROOT, env=project.env | bucket, capture_output=True, text=True)
    assert complete.returncode == 0, complete.stderr
    assert complete.stdout.count("s3://pages/ogelbase") == 4 and "file:///objects" not in complete.stdout
    for variable in bucket:
        without = {name: value for name, value in bucket.items() if name != variable}
        done = subprocess.run(command, cwd=ROOT, env=project.env | without, capture_output=True, text=True)
        assert done.returncode != 0 and f"set {variable}" in done.stderr, done.stderr
