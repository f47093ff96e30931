-- Token files, and what one sees of a training run: its pace, its losses by language and source, the trials of a mixture search.

ALTER TABLE consumed ADD COLUMN tokens_plain BIGINT; -- what the same text is without BPE-dropout

-- data (table): one row a shard and variant
CREATE TABLE token_files (
    ref VARCHAR, corpus VARCHAR, language VARCHAR, source VARCHAR, split VARCHAR, variant BIGINT, shard VARCHAR, path VARCHAR,
    documents BIGINT, bytes BIGINT, tokens BIGINT, tokens_plain BIGINT
);

-- training (table): one row an interval of the log
CREATE TABLE training_pace (
    ref VARCHAR, step BIGINT, steps BIGINT, tokens BIGINT, seconds DOUBLE PRECISION, tokens_per_second DOUBLE PRECISION,
    mfu DOUBLE PRECISION, mfu_causal DOUBLE PRECISION, peak_memory BIGINT, data_wait DOUBLE PRECISION,
    slowest_over_fastest DOUBLE PRECISION, processes BIGINT
);
-- split: train (over an interval that ends with the step) or heldout (after the step)
CREATE TABLE language_losses (
    ref VARCHAR, split VARCHAR, step BIGINT, part VARCHAR, corpus VARCHAR, language VARCHAR, source VARCHAR, tokens BIGINT, bytes BIGINT,
    loss DOUBLE PRECISION, bits_per_byte DOUBLE PRECISION
);
CREATE TABLE training_settings (ref VARCHAR, key VARCHAR, value VARCHAR);

-- training (table): the runs of a mixture search; one row a run and part, and one a run and language
CREATE TABLE trial_weights (ref VARCHAR, trial BIGINT, run VARCHAR, part VARCHAR, weight DOUBLE PRECISION);
CREATE TABLE trial_losses (ref VARCHAR, trial BIGINT, run VARCHAR, language VARCHAR, bits_per_byte DOUBLE PRECISION);
CREATE TABLE suggested_weights (
    ref VARCHAR, part VARCHAR, weight DOUBLE PRECISION, lower DOUBLE PRECISION, upper DOUBLE PRECISION
);
