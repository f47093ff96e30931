-- Artifacts and what their records and side tables hold. Every statement here and in the other migrations runs on DuckDB and
-- on PostgreSQL. `ref` is always the artifact that a row belongs to; (body) comes from the record's body, (table) from a
-- Parquet file that the record names. Duplicates are kept out by the ingester, which writes all rows of a ref at once.

CREATE TABLE artifacts (
    ref VARCHAR PRIMARY KEY, name VARCHAR, version VARCHAR, kind VARCHAR, fingerprint VARCHAR, licence VARCHAR, bytes BIGINT,
    created TIMESTAMPTZ, seconds DOUBLE PRECISION, peak_memory_bytes BIGINT, commit VARCHAR, description VARCHAR, recipe JSON,
    body JSON
);
CREATE TABLE inputs (ref VARCHAR, role VARCHAR, input_ref VARCHAR, input_fingerprint VARCHAR, via VARCHAR);

-- data (body): shards, mixture_parts; (table): flow, failures, token_counts
CREATE TABLE shards (
    ref VARCHAR, path VARCHAR, language VARCHAR, source VARCHAR, split VARCHAR, documents BIGINT, characters BIGINT,
    bytes BIGINT, sha256 VARCHAR
);
CREATE TABLE flow (
    ref VARCHAR, step INTEGER, stage VARCHAR, source VARCHAR, language VARCHAR, outcome VARCHAR, reason VARCHAR,
    documents BIGINT, bytes BIGINT
);
CREATE TABLE failures (ref VARCHAR, source VARCHAR, file VARCHAR, problem VARCHAR);
CREATE TABLE token_counts (
    ref VARCHAR, corpus VARCHAR, shard VARCHAR, tokenizer VARCHAR, language VARCHAR, source VARCHAR, split VARCHAR,
    documents BIGINT, bytes BIGINT, words BIGINT, tokens BIGINT, shard_sha256 VARCHAR, tokenizer_sha256 VARCHAR
);
CREATE TABLE mixture_parts (
    ref VARCHAR, part VARCHAR, corpus VARCHAR, language VARCHAR, source VARCHAR, weight DOUBLE PRECISION,
    tokens_available BIGINT, tokens_planned BIGINT, sequences BIGINT, epochs DOUBLE PRECISION
);

-- training (table)
CREATE TABLE training_log (
    ref VARCHAR, step BIGINT, loss DOUBLE PRECISION, lr DOUBLE PRECISION, grad_norm DOUBLE PRECISION, tokens BIGINT,
    skipped BOOLEAN
);
CREATE TABLE training_parts (
    ref VARCHAR, part VARCHAR, language VARCHAR, source VARCHAR, sequences BIGINT, tokens BIGINT, documents BIGINT
);

-- eval (body)
CREATE TABLE scores (
    ref VARCHAR, model VARCHAR, suite VARCHAR, task VARCHAR, language VARCHAR, metric VARCHAR, value DOUBLE PRECISION,
    stderr DOUBLE PRECISION, items BIGINT, higher_is_better BOOLEAN
);
CREATE TABLE decisions (
    ref VARCHAR, stage VARCHAR, model VARCHAR, policy VARCHAR, verdict VARCHAR, reason VARCHAR, on_refusal VARCHAR,
    kept VARCHAR
);
CREATE TABLE outcomes (
    ref VARCHAR, stage VARCHAR, model VARCHAR, baseline VARCHAR, level VARCHAR, node VARCHAR, metric VARCHAR,
    candidate_value DOUBLE PRECISION, baseline_value DOUBLE PRECISION, delta DOUBLE PRECISION, lower DOUBLE PRECISION,
    upper DOUBLE PRECISION, tolerance DOUBLE PRECISION, margin DOUBLE PRECISION, p_value DOUBLE PRECISION, items BIGINT,
    clusters BIGINT, verdict VARCHAR
);
CREATE TABLE promotions (
    ref VARCHAR, stage VARCHAR, model VARCHAR, decision VARCHAR, verdict VARCHAR, sequence BIGINT, waiver_by VARCHAR,
    waiver_reason VARCHAR
);
