-- The index over the artifact records and their Parquet side tables. Rebuilt whole; deleting it loses nothing.
-- Tables marked (body) come from a record's body, (table) from a Parquet file named in its `tables`. `ref` is always the
-- artifact that the row belongs to.

CREATE TABLE artifacts (
    ref VARCHAR PRIMARY KEY, name VARCHAR, version VARCHAR, kind VARCHAR, fingerprint VARCHAR, licence VARCHAR, bytes BIGINT,
    created TIMESTAMPTZ, seconds DOUBLE, peak_memory_bytes BIGINT, commit VARCHAR, description VARCHAR, recipe JSON, body JSON
);
CREATE TABLE inputs (ref VARCHAR, role VARCHAR, input_ref VARCHAR, input_fingerprint VARCHAR, via VARCHAR);

-- data (body): shards, mixture_parts; (table): flow, documents, removals, failures, token_counts
CREATE TABLE shards (
    ref VARCHAR, path VARCHAR, language VARCHAR, source VARCHAR, split VARCHAR, documents BIGINT, characters BIGINT,
    bytes BIGINT, sha256 VARCHAR
);
CREATE TABLE flow (
    ref VARCHAR, step INTEGER, stage VARCHAR, source VARCHAR, language VARCHAR, outcome VARCHAR, reason VARCHAR,
    documents BIGINT, bytes BIGINT
);
CREATE TABLE documents (
    ref VARCHAR, shard VARCHAR, id VARCHAR, url VARCHAR, domain VARCHAR, crawl VARCHAR, date VARCHAR, language VARCHAR,
    language_score FLOAT, source VARCHAR, split VARCHAR, licence VARCHAR, characters BIGINT, bytes BIGINT, charset VARCHAR,
    cluster_size BIGINT, masked_emails INTEGER, masked_ips INTEGER, masked_phones INTEGER, masked_ids INTEGER,
    masked_cards INTEGER, file VARCHAR, "offset" BIGINT, length BIGINT, digest VARCHAR, claimed VARCHAR, claimed_share FLOAT,
    fasttext VARCHAR, fasttext_score FLOAT, cld2 VARCHAR, script VARCHAR, cluster VARCHAR, rules MAP(VARCHAR, FLOAT)
);
CREATE TABLE removals (
    ref VARCHAR, stage VARCHAR, language VARCHAR, reason VARCHAR, source VARCHAR, url VARCHAR, crawl VARCHAR, file VARCHAR,
    "offset" BIGINT, length BIGINT, digest VARCHAR, bytes BIGINT, detail VARCHAR
);
CREATE TABLE failures (ref VARCHAR, source VARCHAR, file VARCHAR, problem VARCHAR);
CREATE TABLE token_counts (
    ref VARCHAR, corpus VARCHAR, shard VARCHAR, tokenizer VARCHAR, language VARCHAR, source VARCHAR, split VARCHAR,
    documents BIGINT, bytes BIGINT, words BIGINT, tokens BIGINT, shard_sha256 VARCHAR, tokenizer_sha256 VARCHAR
);
CREATE TABLE mixture_parts (
    ref VARCHAR, part VARCHAR, corpus VARCHAR, language VARCHAR, source VARCHAR, weight DOUBLE, tokens_available BIGINT,
    tokens_planned BIGINT, sequences BIGINT, epochs DOUBLE
);

-- training (table)
CREATE TABLE training_log (
    ref VARCHAR, step BIGINT, loss DOUBLE, lr DOUBLE, grad_norm DOUBLE, tokens BIGINT, skipped BOOLEAN
);
CREATE TABLE training_parts (
    ref VARCHAR, part VARCHAR, language VARCHAR, source VARCHAR, sequences BIGINT, tokens BIGINT, documents BIGINT
);

-- eval (body): scores, outcomes; (table): items
CREATE TABLE scores (
    ref VARCHAR, model VARCHAR, suite VARCHAR, task VARCHAR, language VARCHAR, metric VARCHAR, value DOUBLE, stderr DOUBLE,
    items BIGINT, higher_is_better BOOLEAN
);
CREATE TABLE items (
    ref VARCHAR, task VARCHAR, language VARCHAR, metric VARCHAR, item VARCHAR, cluster VARCHAR, value DOUBLE,
    doc_hash VARCHAR, prompt_hash VARCHAR, target_hash VARCHAR
);
CREATE TABLE decisions (
    ref VARCHAR, stage VARCHAR, model VARCHAR, policy VARCHAR, verdict VARCHAR, reason VARCHAR, on_refusal VARCHAR,
    kept VARCHAR
);
CREATE TABLE outcomes (
    ref VARCHAR, stage VARCHAR, model VARCHAR, baseline VARCHAR, level VARCHAR, node VARCHAR, metric VARCHAR,
    candidate_value DOUBLE, baseline_value DOUBLE, delta DOUBLE, lower DOUBLE, upper DOUBLE, tolerance DOUBLE, margin DOUBLE,
    p_value DOUBLE, items BIGINT, clusters BIGINT, verdict VARCHAR
);
CREATE TABLE promotions (
    ref VARCHAR, stage VARCHAR, model VARCHAR, decision VARCHAR, verdict VARCHAR, sequence BIGINT, waiver_by VARCHAR,
    waiver_reason VARCHAR
);

-- What was removed: stage, language, reason.
CREATE VIEW ledger AS
    SELECT ref, step, stage, source, language, reason, sum(documents)::BIGINT AS documents, sum(bytes)::BIGINT AS bytes
    FROM flow WHERE outcome = 'removed' GROUP BY ALL ORDER BY ref, step, language, reason;

-- Documents in = documents out + ledger, for each stage and language (the language at the stage's entry).
CREATE VIEW balance AS
    SELECT ref, step, stage, language,
        coalesce(sum(documents) FILTER (outcome = 'in'), 0)::BIGINT AS documents_in,
        coalesce(sum(documents) FILTER (outcome = 'out'), 0)::BIGINT AS documents_out,
        coalesce(sum(documents) FILTER (outcome = 'removed'), 0)::BIGINT AS documents_removed,
        documents_in = documents_out + documents_removed AS balances
    FROM flow GROUP BY ALL ORDER BY ref, step, language;

-- Tokens of the corpora: one row per count, BPE-dropout off.
CREATE VIEW tokens AS
    SELECT ref, corpus, tokenizer, language, source, split, sum(documents)::BIGINT AS documents, sum(bytes)::BIGINT AS bytes,
        sum(tokens)::BIGINT AS tokens
    FROM token_counts GROUP BY ALL ORDER BY ref, corpus, language, source, split;

-- Tokens a word (ICU's) and bytes a token, for each tokenizer and language.
CREATE VIEW fertility AS
    SELECT ref, tokenizer, language, sum(documents)::BIGINT AS documents, sum(bytes)::BIGINT AS bytes,
        sum(words)::BIGINT AS words, sum(tokens)::BIGINT AS tokens, sum(tokens) / nullif(sum(words), 0) AS fertility,
        sum(bytes) / nullif(sum(tokens), 0) AS bytes_per_token
    FROM token_counts GROUP BY ALL ORDER BY ref, tokenizer, language;

-- Planned against trained, one row per run and part of its mixture; `off_by_sequences` is 0 when the run kept to the plan.
CREATE VIEW mixture_kept AS
    WITH planned AS (
        SELECT ref AS mixture, part, sum(weight) AS weight, sum(sequences) AS sequences, sum(tokens_planned) AS tokens
        FROM mixture_parts GROUP BY ALL
    ), trained AS (
        SELECT p.ref, i.input_ref AS mixture, p.part, sum(p.sequences) AS sequences, sum(p.tokens) AS tokens
        FROM training_parts p JOIN inputs i ON i.ref = p.ref AND i.role = 'mixture' GROUP BY ALL
    )
    SELECT trained.ref, mixture, part, planned.weight,
        trained.tokens / sum(trained.tokens) OVER (PARTITION BY trained.ref) AS share,
        planned.sequences::BIGINT AS sequences_planned, trained.sequences::BIGINT AS sequences_trained,
        trained.tokens::BIGINT AS tokens,
        abs(trained.sequences - planned.weight * sum(trained.sequences) OVER (PARTITION BY trained.ref)) AS off_by_sequences
    FROM trained JOIN planned USING (mixture, part) ORDER BY trained.ref, part;

-- A stage's alias: its latest promotion.
CREATE VIEW stages AS
    SELECT stage, arg_max(model, sequence) AS model, arg_max(ref, sequence) AS promotion FROM promotions GROUP BY stage
    ORDER BY stage;

-- Every ancestor of every artifact.
CREATE VIEW ancestors AS
    WITH RECURSIVE up(ref, ancestor, distance) AS (
        SELECT ref, input_ref, 1 FROM inputs
        UNION
        SELECT up.ref, inputs.input_ref, up.distance + 1 FROM up JOIN inputs ON inputs.ref = up.ancestor
    )
    SELECT ref, ancestor, min(distance) AS distance FROM up GROUP BY ref, ancestor ORDER BY ref, distance, ancestor;
