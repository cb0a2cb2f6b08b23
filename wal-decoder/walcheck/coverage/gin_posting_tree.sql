-- GIN posting trees of many leaves, which split, and which vacuum shrinks or removes.
\set ON_ERROR_STOP 1
SET client_min_messages = warning;
SET wal_consistency_checking = 'gin';
CREATE TABLE words (id int, keys int[]) WITH (autovacuum_enabled = off);
INSERT INTO words SELECT i, ARRAY[1, 2 + i % 5] FROM generate_series(1, 60000) i;
CREATE INDEX words_keys ON words USING gin (keys) WITH (gin_pending_list_limit = 640);
INSERT INTO words SELECT i, ARRAY[1, i] FROM generate_series(60001, 60030) i;
SELECT gin_clean_pending_list('words_keys');
ALTER INDEX words_keys SET (fastupdate = off);
INSERT INTO words SELECT i, ARRAY[1, i % 200] FROM generate_series(70001, 70060) i;
DELETE FROM words WHERE id < 45000 AND (id > 15000 OR id % 3 = 0);
VACUUM words;
INSERT INTO words SELECT i, ARRAY[9, 1] FROM generate_series(80001, 80030) i;
