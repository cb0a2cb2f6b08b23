"""What docs/compatibility.md says is refused, is refused."""

import re
import subprocess
from pathlib import Path

import psycopg
import pytest

from cluster import Cluster, pg_bin


def test_a_copy_of_the_data_folder_is_not_taken_for_a_backup(cluster: Cluster, tmp_path: Path):
    """It would hold no table, which is found out on the day when it is needed."""
    cluster.sql("CREATE TABLE t AS SELECT 1 AS a")
    backup = tmp_path / "backup"
    # With a second connection for the WAL, either of the two may be the first to be refused.
    for wal, says in (("fetch", "this_folder_holds_no_tables"), ("stream", "this_folder_holds_no_tables|ahead of the WAL flush position")):
        command = [pg_bin("pg_basebackup"), "-d", cluster.url(), "-D", str(backup), "-c", "fast", "-X", wal]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode != 0 and re.search(says, done.stderr), done.stderr
        assert not backup.exists()
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="base backups"):
        cluster.sql("SELECT pg_backup_start('label')")
    assert cluster.sql("SELECT a FROM t") == [(1,)]


@pytest.mark.parametrize("command", ["CREATE TABLESPACE x LOCATION '/tmp'", "ALTER DATABASE template1 SET TABLESPACE pg_global"])
def test_tablespaces_are_refused(cluster: Cluster, command: str):
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="is not supported"):
        cluster.sql(command)


def test_a_setting_that_would_forget_itself_is_refused(cluster: Cluster):
    with pytest.raises(psycopg.Error, match="not allowed in this environment"):
        cluster.sql("ALTER SYSTEM SET work_mem = '8MB'")
    cluster.sql("ALTER DATABASE postgres SET work_mem = '8MB'")
    cluster.ogel("compute", "kill", "main")
    cluster.ogel("compute", "start", "main")
    assert cluster.sql("SHOW work_mem") == [("8MB",)]
