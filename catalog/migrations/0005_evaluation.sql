-- Scores with what stands beside them, and averages with the set that they are over.

ALTER TABLE scores ADD COLUMN role VARCHAR; -- score, raw or diagnostic
ALTER TABLE scores ADD COLUMN source VARCHAR;
ALTER TABLE scores ADD COLUMN nulls BIGINT;
ALTER TABLE scores ADD COLUMN truncated BIGINT;

-- eval (body); members and missing: JSON lists
CREATE TABLE aggregates (
    ref VARCHAR, model VARCHAR, suite VARCHAR, profile VARCHAR, level VARCHAR, name VARCHAR, language VARCHAR,
    value DOUBLE PRECISION, stderr DOUBLE PRECISION, members JSON, missing JSON
);
