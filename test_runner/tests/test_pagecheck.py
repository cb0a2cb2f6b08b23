"""Every page of the pageserver, at six positions, is stock PostgreSQL's page after replaying the same WAL."""

import pagecheck
from cluster import Cluster, pgbench


def test_pages_after_pgbench_are_stock_pages(cluster: Cluster):
    def workload() -> None:
        pgbench(cluster, "-i", "-s", "1", "-q")
        pgbench(cluster, "-n", "-c", "4", "-j", "2", "-T", "4")
        cluster.sql("VACUUM pgbench_accounts")

    reports = pagecheck.check(cluster, workload)
    assert len(reports) == pagecheck.EARLIER + 1
    for report in reports:
        assert report["different"] == 0, report
        assert report["forks"] > 400 and report["nonzero_pages"] > 2000, report
    assert reports[-1]["nonzero_pages"] > reports[0]["nonzero_pages"] or reports[0]["lsn"] != reports[-1]["lsn"]
