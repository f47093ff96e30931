-- What gates lend, what promotions rest on, which items broke, and which items of suites lie in corpora.

ALTER TABLE promotions ADD COLUMN rolled_back VARCHAR; -- the promotion taken back, empty for one forward
ALTER TABLE promotions ADD COLUMN person VARCHAR;
ALTER TABLE promotions ADD COLUMN reason VARCHAR;

-- eval (body): losses that a later stage must make good
CREATE TABLE loans (
    ref VARCHAR, model VARCHAR, stage VARCHAR, node VARCHAR, metric VARCHAR, level VARCHAR, lender VARCHAR, scorecard VARCHAR,
    lost DOUBLE PRECISION, lent DOUBLE PRECISION, within DOUBLE PRECISION, repay_by VARCHAR
);
-- eval (body): the artifacts that a promotion rests on, with their digests then
CREATE TABLE evidence (
    ref VARCHAR, stage VARCHAR, role VARCHAR, artifact VARCHAR, fingerprint VARCHAR, record_sha256 VARCHAR, licence VARCHAR
);
-- eval (table): items answered worse than by a baseline, the worst of each task; worse: how many there are
CREATE TABLE broken (
    ref VARCHAR, baseline VARCHAR, task VARCHAR, language VARCHAR, metric VARCHAR, item VARCHAR, was DOUBLE PRECISION,
    now DOUBLE PRECISION, baseline_answer VARCHAR, candidate_answer VARCHAR, target VARCHAR, worse BIGINT
);
-- data (table): documents of corpora that hold an item of an evaluation suite
CREATE TABLE item_overlaps (
    ref VARCHAR, suite VARCHAR, item VARCHAR, language VARCHAR, corpus VARCHAR, document VARCHAR, matched BIGINT, ngrams BIGINT
);
-- eval (body): how much of each task the corpora hold, with the score with and without
CREATE TABLE contamination (
    ref VARCHAR, model VARCHAR, suite VARCHAR, task VARCHAR, language VARCHAR, metric VARCHAR, items BIGINT, found BIGINT,
    value DOUBLE PRECISION, clean_value DOUBLE PRECISION
);
-- eval (table): the items found
CREATE TABLE contaminated (ref VARCHAR, task VARCHAR, language VARCHAR, item VARCHAR, corpus VARCHAR, documents BIGINT);
