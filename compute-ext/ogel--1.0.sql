/* compute-ext/ogel--1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION ogel" to load this file. \quit

-- Everything counts since the start of this compute.

CREATE FUNCTION ogel.request_counts(
    OUT kind text, OUT requests bigint, OUT pages bigint, OUT retries bigint,
    OUT total_us bigint, OUT longest_us bigint, OUT latency bigint[])
RETURNS SETOF record AS 'MODULE_PATHNAME', 'ogel_request_counts' LANGUAGE C STRICT PARALLEL RESTRICTED;

CREATE FUNCTION ogel.file_cache_counts(
    OUT size_bytes bigint, OUT used_bytes bigint, OUT hits bigint, OUT misses bigint,
    OUT writes bigint, OUT evictions bigint, OUT bad_checksums bigint, OUT io_errors bigint)
AS 'MODULE_PATHNAME', 'ogel_file_cache' LANGUAGE C STRICT PARALLEL RESTRICTED;

CREATE FUNCTION ogel.prefetch_counts(
    OUT issued bigint, OUT used bigint, OUT stale bigint, OUT unused bigint, OUT failed bigint)
AS 'MODULE_PATHNAME', 'ogel_prefetch_counts' LANGUAGE C STRICT PARALLEL RESTRICTED;

CREATE FUNCTION ogel.wait_counts(
    OUT wait_event text, OUT waits bigint, OUT total_us bigint, OUT longest_us bigint)
RETURNS SETOF record AS 'MODULE_PATHNAME', 'ogel_wait_counts' LANGUAGE C STRICT PARALLEL RESTRICTED;

CREATE FUNCTION ogel.process_counts(
    OUT pid integer, OUT requests bigint, OUT pages bigint, OUT prefetched bigint, OUT wasted bigint,
    OUT file_cache_hits bigint, OUT storage_wait_us bigint, OUT backpressure_wait_us bigint)
RETURNS SETOF record AS 'MODULE_PATHNAME', 'ogel_process_counts' LANGUAGE C STRICT PARALLEL RESTRICTED;

CREATE FUNCTION ogel.lsn_positions(
    OUT insert_lsn pg_lsn, OUT write_lsn pg_lsn, OUT quorum_lsn pg_lsn,
    OUT pageserver_last_record_lsn pg_lsn, OUT max_lag_bytes bigint)
AS 'MODULE_PATHNAME', 'ogel_lsn_positions' LANGUAGE C STRICT PARALLEL RESTRICTED;

CREATE FUNCTION ogel.supervisor_status() RETURNS text
AS 'MODULE_PATHNAME', 'ogel_supervisor_status' LANGUAGE C STRICT PARALLEL RESTRICTED;

-- Whose answer ends a wait.  NULL: not storage's.
CREATE FUNCTION ogel.waits_for(wait_event text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN wait_event = 'SyncRep' THEN 'safekeepers'
    WHEN wait_event IN ('OgelFileCacheRead', 'OgelFileCacheWrite') THEN 'local disk'
    WHEN wait_event LIKE 'Ogel%' THEN 'pageserver'
END;

-- Upper edge, in ms, of the bucket in which the given share of the answers lies
CREATE FUNCTION ogel.quantile_ms(latency bigint[], share float8) RETURNS float8
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN (
    SELECT 2.0 ^ (bucket - 1) / 1000
    FROM (SELECT bucket, sum(answers) OVER (ORDER BY bucket) AS below, sum(answers) OVER () AS total
          FROM unnest(latency) WITH ORDINALITY AS b (answers, bucket)) AS sums
    WHERE total > 0 AND below >= share * total
    ORDER BY bucket LIMIT 1);

CREATE VIEW ogel.page_requests AS
SELECT kind, requests, pages, retries,
       CASE WHEN kind <> 'prefetch' THEN requests - answered END AS unanswered,
       total_us / 1000.0 AS total_ms,
       total_us / 1000.0 / nullif(answered, 0) AS mean_ms,
       ogel.quantile_ms(latency, 0.5) AS p50_ms,
       ogel.quantile_ms(latency, 0.99) AS p99_ms,
       longest_us / 1000.0 AS max_ms
FROM ogel.request_counts(), LATERAL (SELECT sum(n)::bigint AS answered FROM unnest(latency) n) AS sums;
COMMENT ON VIEW ogel.page_requests IS 'Questions to the pageserver; percentiles are upper edges of buckets of powers of two';

CREATE VIEW ogel.page_request_latency AS
SELECT kind, CASE WHEN bucket < cardinality(latency) THEN 2.0 ^ (bucket - 1) / 1000 END AS below_ms, answers
FROM ogel.request_counts(), unnest(latency) WITH ORDINALITY AS b (answers, bucket)
WHERE kind <> 'prefetch' AND answers > 0;
COMMENT ON VIEW ogel.page_request_latency IS 'Answers of the pageserver by how long they took; NULL is the last bucket, all that took longer';

CREATE VIEW ogel.file_cache AS
SELECT *, hits::float8 / nullif(hits + misses, 0) AS hit_ratio FROM ogel.file_cache_counts();
COMMENT ON VIEW ogel.file_cache IS 'Pages kept on this compute''s disk';

CREATE VIEW ogel.prefetch AS
SELECT issued, used, stale, unused, failed, issued - used - stale - unused - failed AS held,
       used::float8 / nullif(used + stale + unused + failed, 0) AS used_ratio
FROM ogel.prefetch_counts();
COMMENT ON VIEW ogel.prefetch IS 'Pages asked for ahead. Wasted are: stale (changed meanwhile), unused (nobody came for them), failed (lost with the connection); held by sessions for later use';

CREATE VIEW ogel.waiting AS
SELECT pid, usename, datname, backend_type, wait_event, ogel.waits_for(wait_event) AS waits_for,
       clock_timestamp() - state_change AS statement_for, query
FROM pg_catalog.pg_stat_activity
WHERE ogel.waits_for(wait_event) IS NOT NULL;
COMMENT ON VIEW ogel.waiting IS 'Processes that wait for storage right now, and for which part of it';

CREATE VIEW ogel.waits AS
SELECT wait_event, ogel.waits_for(wait_event) AS waits_for, waits, total_us / 1000.0 AS total_ms,
       longest_us / 1000.0 AS max_ms, coalesce(waiting_now, 0) AS waiting_now
FROM ogel.wait_counts()
FULL JOIN (SELECT wait_event, count(*) AS waiting_now FROM ogel.waiting GROUP BY wait_event) AS now USING (wait_event);
COMMENT ON VIEW ogel.waits IS 'Waits for storage by wait event: how often, how long, and how many processes wait now';

CREATE VIEW ogel.processes AS
SELECT p.pid, a.usename, a.datname, a.backend_type, p.requests, p.pages, p.prefetched, p.wasted, p.file_cache_hits,
       p.storage_wait_us / 1000.0 AS storage_wait_ms, p.backpressure_wait_us / 1000.0 AS backpressure_wait_ms
FROM ogel.process_counts() AS p JOIN pg_catalog.pg_stat_activity AS a USING (pid);
COMMENT ON VIEW ogel.processes IS 'What each process of this compute has taken from storage; wasted are pages asked for ahead in vain';

CREATE VIEW ogel.safekeepers AS
SELECT node_id, state, flush_lsn, pg_catalog.pg_wal_lsn_diff(write_lsn, flush_lsn)::bigint AS lag_bytes, error
FROM ogel.lsn_positions(),
     jsonb_to_recordset(ogel.supervisor_status()::jsonb -> 'safekeepers')
         AS s (node_id bigint, state text, flush_lsn pg_lsn, error text);
COMMENT ON VIEW ogel.safekeepers IS 'Where each safekeeper is, as the supervisor saw it within the last second';

CREATE VIEW ogel.lsn AS
SELECT insert_lsn, write_lsn, quorum_lsn, pageserver_last_record_lsn,
       (status ->> 'disk_consistent_lsn')::pg_lsn AS pageserver_disk_consistent_lsn,
       (status ->> 'remote_consistent_lsn')::pg_lsn AS pageserver_remote_consistent_lsn,
       quorum_lag_bytes, pageserver_lag_bytes, max_lag_bytes,
       coalesce(committing, 0) AS commits_waiting, coalesce(slowed, 0) AS writers_slowed, coalesce(reading, 0) AS readers_waiting,
       concat_ws('; ',
           CASE WHEN committing > 0 THEN format('%s commits wait for a quorum of safekeepers, %s behind', committing, pg_size_pretty(quorum_lag_bytes)) END,
           CASE WHEN slowed > 0 THEN format('%s writers are slowed down for the %s, %s behind of at most %s', slowed,
               CASE WHEN quorum_lag_bytes > pageserver_lag_bytes / 2 THEN 'safekeepers' ELSE 'pageserver' END,
               pg_size_pretty(pageserver_lag_bytes), pg_size_pretty(max_lag_bytes)) END,
           CASE WHEN reading > 0 THEN format('%s processes wait for the pageserver''s answer', reading) END) AS waits_for
FROM ogel.lsn_positions(),
     LATERAL (SELECT pg_catalog.pg_wal_lsn_diff(insert_lsn, quorum_lsn)::bigint AS quorum_lag_bytes,
                     pg_catalog.pg_wal_lsn_diff(insert_lsn, pageserver_last_record_lsn)::bigint AS pageserver_lag_bytes) AS lags,
     (SELECT ogel.supervisor_status()::jsonb AS status) AS supervisor,
     (SELECT count(*) FILTER (WHERE wait_event = 'SyncRep') AS committing,
             count(*) FILTER (WHERE wait_event = 'OgelBackpressure') AS slowed,
             count(*) FILTER (WHERE waits_for = 'pageserver' AND wait_event <> 'OgelBackpressure') AS reading
      FROM ogel.waiting) AS waiting;
COMMENT ON VIEW ogel.lsn IS 'How far this compute''s WAL is, step by step, and who waits for whom';

GRANT USAGE ON SCHEMA ogel TO PUBLIC;
GRANT SELECT ON ALL TABLES IN SCHEMA ogel TO PUBLIC;
