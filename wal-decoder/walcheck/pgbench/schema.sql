-- One table with every index type; pgbench runs transactions.sql on it.
\set ON_ERROR_STOP 1
CREATE EXTENSION bloom;
CREATE TABLE mixed (id int PRIMARY KEY, n int, at point, keys int[], label text, span int4range, stamp timestamptz DEFAULT now())
    WITH (fillfactor = 80);
INSERT INTO mixed SELECT i, i % 97, point(i % 100, i / 100), ARRAY[i % 50, i % 7], 'label ' || md5(i::text), int4range(i, i + 10)
    FROM generate_series(1, 2000) i;
CREATE INDEX mixed_n ON mixed USING btree (n);
CREATE INDEX mixed_hash ON mixed USING hash (n);
CREATE INDEX mixed_gin ON mixed USING gin (keys) WITH (gin_pending_list_limit = 64);
CREATE INDEX mixed_gist ON mixed USING gist (at);
CREATE INDEX mixed_gist_span ON mixed USING gist (span);
CREATE INDEX mixed_spgist ON mixed USING spgist (label);
CREATE INDEX mixed_spgist_at ON mixed USING spgist (at);
CREATE INDEX mixed_brin ON mixed USING brin (stamp) WITH (pages_per_range = 2, autosummarize = on);
CREATE INDEX mixed_bloom ON mixed USING bloom (id, n);
CREATE SEQUENCE mixed_id START 10000;
