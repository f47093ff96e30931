-- What a merge did to the weights: a row a tensor, one a tensor and parent, one a tensor and two parents.

-- merging (table): layer is NULL outside of the layers; norms are Euclidean, merged_norm that of the difference from the base;
-- sign_conflict: share of elements that one parent makes larger and another one smaller
CREATE TABLE merge_tensors (
    ref VARCHAR, tensor VARCHAR, layer BIGINT, part VARCHAR, elements BIGINT, dtype VARCHAR, file VARCHAR, xxh3_128 VARCHAR,
    base_norm DOUBLE PRECISION, merged_norm DOUBLE PRECISION, sign_conflict DOUBLE PRECISION
);
-- parent: its place in the recipe, from 1; norm: of its difference from the base; changed, kept: shares of the elements that it
-- changes, and that the method let through of it
CREATE TABLE merge_parents (
    ref VARCHAR, tensor VARCHAR, layer BIGINT, part VARCHAR, parent BIGINT, model VARCHAR, weight DOUBLE PRECISION,
    norm DOUBLE PRECISION, changed DOUBLE PRECISION, kept DOUBLE PRECISION
);
-- cosine: between the differences of two parents; overlap: elements let through of both over those of either
CREATE TABLE merge_pairs (
    ref VARCHAR, tensor VARCHAR, layer BIGINT, part VARCHAR, one BIGINT, other BIGINT, cosine DOUBLE PRECISION,
    overlap DOUBLE PRECISION
);
