-- The trials of a search over merges.

-- merging (table): one row a trial, and one a trial and searched parameter; value: the score, higher is better, NULL when it failed
CREATE TABLE merge_trials (
    ref VARCHAR, trial BIGINT, run VARCHAR, method VARCHAR, value DOUBLE PRECISION, is_best BOOLEAN, failed VARCHAR
);
CREATE TABLE merge_trial_parameters (ref VARCHAR, trial BIGINT, run VARCHAR, parameter VARCHAR, value DOUBLE PRECISION);
