-- Records that change no page, or of which only a few schedules write one: backups, restore points, settings, hints, messages, origins,
-- the mappings of a rewritten catalog, reused pages of a GiST index.
\set ON_ERROR_STOP 1
SET client_min_messages = warning;
SET wal_consistency_checking = 'all';
SELECT pg_backup_start('coverage', true);
SELECT pg_backup_stop(false);
SELECT pg_create_restore_point('coverage');
SELECT pg_logical_emit_message(true, 'coverage', 'of a transaction'), pg_logical_emit_message(false, 'coverage', 'of none');
SELECT pg_replication_origin_create('coverage');
SELECT pg_replication_origin_advance('coverage', '0/1234567');
SELECT pg_replication_origin_drop('coverage');

-- A hint bit is the first change of a page since the checkpoint; with full page writes its image is logged.
CREATE TABLE hinted (id int) WITH (autovacuum_enabled = off);
INSERT INTO hinted VALUES (1);
CHECKPOINT;
SELECT count(*) FROM hinted;
INSERT INTO hinted VALUES (2);
ALTER SYSTEM SET full_page_writes = on;
SELECT pg_reload_conf();
CHECKPOINT;
SELECT count(*) FROM hinted;
ALTER SYSTEM RESET full_page_writes;
SELECT pg_reload_conf();
CHECKPOINT;

-- A deleted page is reused when no transaction from before its deletion is left.
CREATE TABLE reused (at point) WITH (autovacuum_enabled = off);
CREATE INDEX reused_at ON reused USING gist (at);
INSERT INTO reused SELECT point(i % 40, i / 40) FROM generate_series(1, 1500) i;
DELETE FROM reused WHERE at[1] < 25;
VACUUM reused;
SELECT pg_current_xact_id();
VACUUM reused;
INSERT INTO reused SELECT point(1000 + i % 40, 1000 + i / 40) FROM generate_series(1, 600) i;

-- Only with wal_level = logical does a rewrite log where the rows of a catalog went.
SELECT pg_create_logical_replication_slot('coverage', 'pgoutput');
CREATE TABLE followed (id int) WITH (user_catalog_table = true);
INSERT INTO followed SELECT generate_series(1, 20);
UPDATE followed SET id = id + 1;
VACUUM FULL followed;
SELECT pg_drop_replication_slot('coverage');
