-- A GIN posting tree of three leaves with little WAL; its root takes a new leaf, and vacuum removes one.
\set ON_ERROR_STOP 1
SET client_min_messages = warning;
SET wal_consistency_checking = '';
CREATE TABLE same (keys int[]) WITH (autovacuum_enabled = off);
COPY same FROM PROGRAM 'yes {1} | head -n 36000';
CREATE INDEX same_keys ON same USING gin (keys) WITH (fastupdate = off);
DELETE FROM same WHERE ctid BETWEEN '(40,0)' AND '(120,0)';
SET wal_consistency_checking = 'gin';
VACUUM same;
