\set id random(1, 2000)
\set n random(1, 97)
BEGIN;
INSERT INTO mixed (id, n, at, keys, label, span)
    VALUES (nextval('mixed_id'), :n, point(:n, :id), ARRAY[:n, :id], 'label ' || md5(:id::text || :n), int4range(:id, :id + :n));
UPDATE mixed SET n = :n WHERE id = :id;
UPDATE mixed SET label = 'changed ' || :n, at = point(:id, :n), keys = keys || :n WHERE id = :id;
SELECT count(*) FROM mixed WHERE n = :n;
DELETE FROM mixed WHERE id = 9999 + :id;
END;
