-- Reaches the page-changing record kinds of hash, GIN, GiST, SP-GiST, BRIN and generic (bloom) indexes with little WAL: rows are loaded
-- without comparison images, which costs nothing but the comparison of heap pages.
\set ON_ERROR_STOP 1
SET client_min_messages = warning;
SET enable_seqscan = off;
CREATE EXTENSION bloom;

-- Hash: splits, overflow pages and their removal; dead tuples removed when a page is full.
SET wal_consistency_checking = 'hash';
CREATE TABLE hashed (id int, filler text) WITH (autovacuum_enabled = off, fillfactor = 10);
CREATE INDEX hashed_id ON hashed USING hash (id) WITH (fillfactor = 20);
INSERT INTO hashed SELECT i FROM generate_series(1, 200) i;
SET wal_consistency_checking = '';
INSERT INTO hashed SELECT i FROM generate_series(201, 700) i;
INSERT INTO hashed SELECT 7 FROM generate_series(1, 250) i;
SET wal_consistency_checking = 'hash';
INSERT INTO hashed SELECT 7 FROM generate_series(1, 180) i;
SET wal_consistency_checking = '';
INSERT INTO hashed SELECT 7 FROM generate_series(1, 460) i;
SET wal_consistency_checking = 'hash';
DELETE FROM hashed WHERE id = 7 AND ctid > '(38,0)';
VACUUM hashed;
SET wal_consistency_checking = '';
INSERT INTO hashed SELECT 8 FROM generate_series(1, 500) i;
SET wal_consistency_checking = 'hash';
DELETE FROM hashed WHERE id = 8;
SET enable_bitmapscan = off;
SELECT count(*) FROM hashed WHERE id = 8;
RESET enable_bitmapscan;
INSERT INTO hashed SELECT 8 FROM generate_series(1, 80) i;
VACUUM hashed;

-- GIN: pending list, entry tree and its splits; a key whose posting list is too long for an entry gets a posting tree.
SET wal_consistency_checking = 'gin';
CREATE TABLE few (id int, keys int[]) WITH (autovacuum_enabled = off);
CREATE INDEX few_keys ON few USING gin (keys) WITH (gin_pending_list_limit = 640);
INSERT INTO few SELECT i, ARRAY[1, i % 5] FROM generate_series(1, 30) i;
SELECT gin_clean_pending_list('few_keys');
SET wal_consistency_checking = '';
INSERT INTO few SELECT i, ARRAY[77] FROM generate_series(1, 3600) i;
SET wal_consistency_checking = 'gin';
SELECT gin_clean_pending_list('few_keys');
ALTER INDEX few_keys SET (fastupdate = off);
INSERT INTO few SELECT i, ARRAY[77, i] FROM generate_series(1, 20) i;
DELETE FROM few WHERE id % 9 = 0;
VACUUM few;
CREATE TABLE tall (id int, keys text[]) WITH (autovacuum_enabled = off);
CREATE INDEX tall_keys ON tall USING gin (keys) WITH (fastupdate = off);
INSERT INTO tall SELECT i, ARRAY['k' || i, lpad((i % 60)::text, 300, 'w')] FROM generate_series(1, 90) i;
DELETE FROM tall WHERE id < 50;
VACUUM tall;

-- GiST: splits, page deletion, dead tuples removed when a page is full.
SET wal_consistency_checking = 'gist';
CREATE TABLE places (id int, at point) WITH (autovacuum_enabled = off);
CREATE INDEX places_at ON places USING gist (at);
INSERT INTO places SELECT i, point(i % 40, i / 40) FROM generate_series(1, 300) i;
SET wal_consistency_checking = '';
INSERT INTO places SELECT i, point(i % 40, i / 40) FROM generate_series(301, 900) i;
SET wal_consistency_checking = 'gist';
DELETE FROM places WHERE id < 500;
VACUUM places;
VACUUM places;
SET wal_consistency_checking = '';
INSERT INTO places SELECT i, point(1000, 1000) FROM generate_series(1000, 1120) i;
SET wal_consistency_checking = 'gist';
DELETE FROM places WHERE id >= 1000;
SET enable_bitmapscan = off;
SELECT count(*) FROM places WHERE at <@ box '((999,999),(1001,1001))';
RESET enable_bitmapscan;
INSERT INTO places SELECT i, point(1000, 1000) FROM generate_series(1000, 1060) i;

-- SP-GiST: leaves moved and split, nodes added, prefixes split, a root that is still a leaf; vacuum of all of them.
SET wal_consistency_checking = 'spgist';
CREATE TABLE texts (t text) WITH (autovacuum_enabled = off);
CREATE INDEX texts_t ON texts USING spgist (t);
INSERT INTO texts VALUES ('a'), ('b'), ('c'), (NULL);
DELETE FROM texts WHERE t = 'b';
VACUUM texts;
INSERT INTO texts SELECT 'P0123456789abcdef' || i FROM generate_series(1, 300) i;
INSERT INTO texts SELECT 'P0123456789abc' || chr(60 + i % 30) || repeat('t', 20) || i FROM generate_series(1, 200) i;
INSERT INTO texts SELECT 'P0' || chr(33 + i % 50) || i FROM generate_series(1, 150) i;
DELETE FROM texts WHERE length(t) % 3 = 0;
VACUUM texts;
INSERT INTO texts SELECT chr(97 + i % 10) || i FROM generate_series(1, 80) i;
VACUUM texts;
CREATE TABLE points (p point) WITH (autovacuum_enabled = off);
CREATE INDEX points_quad ON points USING spgist (p);
CREATE INDEX points_kd ON points USING spgist (p kd_point_ops);
INSERT INTO points SELECT point(i * 7919 % 1000, i * 104729 % 1000) FROM generate_series(1, 240) i;
DELETE FROM points WHERE p[0] < 500;
VACUUM points;

-- BRIN: summaries that grow and move, the range map, desummarizing.
SET wal_consistency_checking = 'brin';
CREATE TABLE ranged (id int, note text) WITH (autovacuum_enabled = off, fillfactor = 10);
CREATE INDEX ranged_id ON ranged USING brin (id, note) WITH (pages_per_range = 1);
INSERT INTO ranged SELECT i, 'n' || i FROM generate_series(1, 150) i;
SELECT brin_summarize_new_values('ranged_id');
UPDATE ranged SET id = id + 1000, note = repeat('long', 60) || id WHERE id % 11 = 0;
VACUUM ranged;
SELECT brin_desummarize_range('ranged_id', 0), brin_desummarize_range('ranged_id', 2);
INSERT INTO ranged SELECT -i, repeat('z', 500) FROM generate_series(1, 20) i;
SELECT brin_summarize_new_values('ranged_id');
UPDATE ranged SET note = repeat(chr(65 + id % 26), 900) WHERE id > 0;

-- Generic records.
SET wal_consistency_checking = 'generic';
CREATE TABLE bloomed (a int, b int) WITH (autovacuum_enabled = off);
CREATE INDEX bloomed_ab ON bloomed USING bloom (a, b);
INSERT INTO bloomed SELECT i, i % 10 FROM generate_series(1, 100) i;
DELETE FROM bloomed WHERE a % 2 = 0;
VACUUM bloomed;
INSERT INTO bloomed SELECT i, i FROM generate_series(400, 430) i;
