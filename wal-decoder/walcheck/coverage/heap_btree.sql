-- Reaches every page-changing record kind of heap, heap2, btree and sequence with little WAL.
\set ON_ERROR_STOP 1
SET client_min_messages = warning;

-- Heap: single and multiple inserts, HOT and other updates, a key that moves between pages, deletes, locks, speculative insertion.
CREATE TABLE rows (id int PRIMARY KEY, note text, filler text) WITH (autovacuum_enabled = off, fillfactor = 60);
INSERT INTO rows SELECT i, 'note ' || i, repeat('f', 200) FROM generate_series(1, 120) i;
COPY rows (id, note) FROM PROGRAM 'seq 1001 1200 | sed "s/$/\tcopied/"';
UPDATE rows SET note = note || ' hot' WHERE id % 7 = 0;
UPDATE rows SET filler = repeat('g', 900) WHERE id % 11 = 0;
INSERT INTO rows VALUES (5, 'again') ON CONFLICT (id) DO UPDATE SET note = 'upsert';
INSERT INTO rows VALUES (2000, 'speculative') ON CONFLICT (id) DO NOTHING;
BEGIN;
UPDATE rows SET note = 'first' WHERE id = 3;
SAVEPOINT s;
UPDATE rows SET note = 'second' WHERE id = 3;
DELETE FROM rows WHERE id = 4;
ROLLBACK TO s;
SELECT count(*) FROM (SELECT FROM rows WHERE id < 10 FOR UPDATE) locked;
SELECT count(*) FROM (SELECT FROM rows WHERE id < 20 FOR KEY SHARE) locked;
COMMIT;
DELETE FROM rows WHERE id % 5 = 0;
VACUUM (FREEZE, INDEX_CLEANUP on) rows;
INSERT INTO rows SELECT i, 'back' FROM generate_series(3000, 3040) i;
UPDATE rows SET note = 'visible again' WHERE id BETWEEN 1010 AND 1030;
SELECT count(*) FROM (SELECT FROM rows WHERE id BETWEEN 1040 AND 1042 FOR SHARE) locked;
VACUUM rows;
-- A row whose newer version is not committed yet: the newer version is locked too.
BEGIN;
UPDATE rows SET note = 'not yet' WHERE id = 2;
PREPARE TRANSACTION 'update';
SELECT FROM rows WHERE id = 2 FOR KEY SHARE;
COMMIT PREPARED 'update';
CREATE TABLE parted (id int, note text) PARTITION BY LIST (id);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
CREATE TABLE parted_2 PARTITION OF parted FOR VALUES IN (2);
INSERT INTO parted VALUES (1, 'moves');
UPDATE parted SET id = 2;
-- A chain of versions without an index on what changes, pruned when the page is read.
CREATE TABLE chain (id int, n int) WITH (autovacuum_enabled = off);
INSERT INTO chain SELECT 1, 0;
DO $$ BEGIN FOR i IN 1..160 LOOP UPDATE chain SET n = i; IF i % 40 = 0 THEN COMMIT; END IF; END LOOP; END $$;
SELECT sum(n) FROM chain;
INSERT INTO chain SELECT 2, i FROM generate_series(1, 50) i;
DELETE FROM chain WHERE id = 2;
VACUUM (TRUNCATE on) chain;

-- Sequences.
CREATE SEQUENCE numbers;
SELECT count(nextval('numbers')) FROM generate_series(1, 70);
ALTER SEQUENCE numbers RESTART 7;

-- B-tree: keys of 2,500 bytes make a tall tree of few rows; equal keys are deduplicated and their posting lists split.
CREATE TABLE wide (key text);
ALTER TABLE wide ALTER key SET STORAGE plain;
CREATE INDEX wide_key ON wide (key);
INSERT INTO wide SELECT lpad((i * 37 % 61)::text, 2500, 'k') FROM generate_series(1, 60) i;
DELETE FROM wide WHERE key < (SELECT max(key) FROM wide);
VACUUM wide;
VACUUM wide;
INSERT INTO wide SELECT lpad((i * 37 % 61)::text, 2500, 'k') FROM generate_series(1, 20) i;
CREATE TABLE equal (key int, n int) WITH (autovacuum_enabled = off, fillfactor = 50);
CREATE INDEX equal_key ON equal (key) WITH (deduplicate_items = on);
INSERT INTO equal SELECT i % 3, i FROM generate_series(1, 700) i;
DELETE FROM equal WHERE n % 3 = 0 AND n < 500;
VACUUM equal;
INSERT INTO equal SELECT i % 3, i FROM generate_series(1, 500) i;
-- Killed index items are removed when their page is full.
CREATE TABLE churn (id int PRIMARY KEY, n int) WITH (autovacuum_enabled = off);
CREATE INDEX churn_n ON churn (n);
INSERT INTO churn SELECT i, i FROM generate_series(1, 60) i;
DO $$ BEGIN FOR i IN 1..12 LOOP UPDATE churn SET n = n + 1; COMMIT; END LOOP; END $$;
SET enable_seqscan = off; SET enable_bitmapscan = off;
SELECT count(*) FROM churn WHERE n > 0;
INSERT INTO churn SELECT i, i % 70 FROM generate_series(1000, 1400) i;
