-- Counts by crawl, where documents came from, what a run consumed, whose licence is whose, slots, and what could not be read.

ALTER TABLE artifacts ADD COLUMN record_state VARCHAR; -- of artifact.json when it was read; another one means: read it again
ALTER TABLE token_counts ADD COLUMN crawl VARCHAR;
ALTER TABLE promotions ADD COLUMN waiver_expires VARCHAR;

-- A file of a table that stays outside: documents, document_ids, removals, items.
CREATE TABLE side_files (ref VARCHAR, name VARCHAR, path VARCHAR, bytes BIGINT, sha256 VARCHAR); -- path: relative to the catalog

-- data (table)
CREATE TABLE shard_counts (
    ref VARCHAR, shard VARCHAR, language VARCHAR, source VARCHAR, split VARCHAR, crawl VARCHAR, documents BIGINT,
    characters BIGINT, bytes BIGINT
);
CREATE TABLE origins (ref VARCHAR, source VARCHAR, crawl VARCHAR, file VARCHAR, documents BIGINT, bytes BIGINT);

-- training (table): the documents that a run read, each as often as it read it, by where they came from
CREATE TABLE consumed (
    ref VARCHAR, part VARCHAR, corpus VARCHAR, language VARCHAR, source VARCHAR, crawl VARCHAR, documents BIGINT, tokens BIGINT
);

-- The licences that an artifact's own making brought in, beside those of its inputs: `given_by` says what has it.
CREATE TABLE own_licences (ref VARCHAR, licence VARCHAR, given_by VARCHAR);

-- Slots: what was planned, what was reported. A slot is one task's output of one stage of one artifact.
CREATE TABLE slot_sets (
    ref VARCHAR, stage VARCHAR, fingerprint VARCHAR, planned BIGINT, created TIMESTAMPTZ, state VARCHAR,
    PRIMARY KEY (ref, stage)
);
CREATE TABLE slots (
    ref VARCHAR, stage VARCHAR, slot VARCHAR, label VARCHAR, path VARCHAR, sha256 VARCHAR, bytes BIGINT, documents BIGINT,
    seconds DOUBLE PRECISION, reported TIMESTAMPTZ, attempt VARCHAR, PRIMARY KEY (ref, stage, slot)
);
CREATE TABLE slot_counts (
    ref VARCHAR, stage VARCHAR, slot VARCHAR, language VARCHAR, source VARCHAR, split VARCHAR, crawl VARCHAR,
    documents BIGINT, characters BIGINT, bytes BIGINT
);
CREATE TABLE slot_tokens (
    ref VARCHAR, stage VARCHAR, slot VARCHAR, language VARCHAR, source VARCHAR, split VARCHAR, crawl VARCHAR,
    tokenizer VARCHAR, tokens BIGINT
);
CREATE TABLE slot_flow (
    ref VARCHAR, stage VARCHAR, slot VARCHAR, step INTEGER, step_name VARCHAR, source VARCHAR, language VARCHAR,
    outcome VARCHAR, reason VARCHAR, documents BIGINT, bytes BIGINT
);
CREATE TABLE slot_conflicts (
    ref VARCHAR, stage VARCHAR, slot VARCHAR, sha256 VARCHAR, kept_sha256 VARCHAR, attempt VARCHAR, reported TIMESTAMPTZ
);

-- Records, manifests and side tables that could not be read, and why: everything else is answered without them.
CREATE TABLE problems (path VARCHAR, problem VARCHAR, state VARCHAR);
