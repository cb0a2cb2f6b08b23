-- The transaction logs: many subtransactions, multixacts over several pages of offsets and members, two-phase commit with
-- subtransactions. They have no images, so next to nothing is logged for comparison here; `walcheck --files` compares them.
\set ON_ERROR_STOP 1
SET client_min_messages = warning;
SET wal_consistency_checking = '';
CREATE TABLE shared (id int PRIMARY KEY, n int) WITH (autovacuum_enabled = off);
INSERT INTO shared SELECT i, 0 FROM generate_series(1, 2600) i;
-- The outer transaction's lock and each subtransaction's update make a multixact of their own.
DO $$
BEGIN
    PERFORM FROM shared FOR KEY SHARE;
    FOR i IN 1..2600 LOOP
        BEGIN
            UPDATE shared SET n = n + 1 WHERE id = i;
            IF i % 3 = 0 THEN RAISE division_by_zero; END IF;
        EXCEPTION WHEN division_by_zero THEN NULL;
        END;
    END LOOP;
END $$;
-- A multixact of many members.
DO $$
BEGIN
    FOR i IN 1..60 LOOP
        BEGIN
            PERFORM FROM shared WHERE id = 1 FOR KEY SHARE;
            PERFORM FROM shared WHERE id = 2 FOR SHARE;
            UPDATE shared SET n = n + 1 WHERE id = 1;
        EXCEPTION WHEN division_by_zero THEN NULL;
        END;
    END LOOP;
END $$;
-- Lockers that stay while others join them.
BEGIN; SELECT FROM shared WHERE id < 5 FOR KEY SHARE; PREPARE TRANSACTION 'first';
BEGIN; SAVEPOINT s; SELECT FROM shared WHERE id < 5 FOR KEY SHARE; PREPARE TRANSACTION 'second';
BEGIN; UPDATE shared SET n = 7 WHERE id < 5; SAVEPOINT s; DELETE FROM shared WHERE id > 2590; ROLLBACK TO s;
    INSERT INTO shared VALUES (9000, 1); PREPARE TRANSACTION 'third';
COMMIT PREPARED 'first';
ROLLBACK PREPARED 'second';
COMMIT PREPARED 'third';
-- Transactions enough for another page of every log.
DO $$ BEGIN FOR i IN 1..2000 LOOP UPDATE shared SET n = i WHERE id = 100 + i % 300; COMMIT; END LOOP; END $$;
VACUUM (FREEZE) shared;
