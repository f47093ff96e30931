-- Counts of shards added up for each artifact, so that what people ask most does not read a row a shard.

CREATE TABLE token_sums (
    ref VARCHAR, corpus VARCHAR, tokenizer VARCHAR, language VARCHAR, source VARCHAR, split VARCHAR, crawl VARCHAR,
    documents BIGINT, bytes BIGINT, words BIGINT, tokens BIGINT
);
CREATE TABLE corpus_sums (
    ref VARCHAR, language VARCHAR, source VARCHAR, split VARCHAR, crawl VARCHAR, documents BIGINT, characters BIGINT,
    bytes BIGINT
);
