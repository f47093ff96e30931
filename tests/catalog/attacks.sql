-- Attacks on SQL of others, one a line (test_confined.py). {outside}: a CSV file outside the catalog, {other}: a DuckDB file there,
-- {root}: the catalog, {side}: a side file in it, {fresh}: a path that is not there.
-- read
FROM read_csv('{outside}')
FROM read_csv_auto('{outside}')
FROM read_text('{outside}')
FROM read_blob('{outside}')
FROM glob('/etc/*')
FROM glob('{root}/*')
FROM sniff_csv('{outside}')
FROM read_json('{outside}')
FROM read_json_auto('{outside}')
FROM read_ndjson('{outside}')
FROM read_parquet('{side}')
FROM parquet_scan('{side}')
FROM parquet_metadata('{side}')
FROM parquet_schema('{side}')
FROM parquet_kv_metadata('{side}')
FROM parquet_file_metadata('{side}')
FROM parquet_bloom_probe('{side}', 'id', 'a')
FROM '{outside}'
FROM '{side}'
FROM '{root}/../outside.csv'
FROM read_text('{root}/../outside.csv')
FROM read_text('{root}/link.csv')
FROM read_csv('/proc/self/environ')
FROM read_text('/proc/self/cmdline')
FROM read_text('/dev/stdin')
FROM read_csv('https://127.0.0.1:9/x.csv')
FROM read_parquet('s3://bucket/x')
FROM 'https://127.0.0.1:9/x.parquet'
FROM read_text('file://{outside}')
SELECT getenv('PATH')
SELECT * FROM query('FROM read_text(''{outside}'')')
SELECT * FROM query_table('{outside}')
SELECT (SELECT content FROM read_text('{outside}'))
EXPLAIN ANALYZE FROM read_text('{outside}')
SELECT * FROM json_execute_serialized_sql(json_serialize_sql('FROM read_text(''{outside}'')'))
FROM read_duckdb('{root}/catalog.duckdb')
FROM which_secret('s3://x', 's3')
WITH x AS MATERIALIZED (FROM read_text('{outside}')) FROM x
DESCRIBE FROM read_csv('{outside}')
SUMMARIZE FROM read_csv('{outside}')
PIVOT read_csv('{outside}') ON a USING count(*)
FROM secret_frame
FROM files
FROM read_duckdb('{other}', table_name = 't')
SELECT * FROM read_text(list_value('{outside}'))
FROM read_text(concat('{root}', '/link.csv'))
-- write
COPY (SELECT 1) TO '{fresh}'
COPY (SELECT 1) TO '{side}'
COPY artifacts TO '{fresh}' (FORMAT parquet)
COPY (SELECT 1) TO '/dev/stdout'
WITH x AS (COPY (SELECT 1) TO '{fresh}') FROM x
EXPLAIN ANALYZE COPY (SELECT 1) TO '{fresh}'
EXPORT DATABASE '{fresh}'
IMPORT DATABASE '{root}'
ATTACH '{fresh}' AS x
ATTACH '{root}/catalog.duckdb' AS x
ATTACH OR REPLACE '{fresh}' AS catalog
DETACH catalog
CREATE TABLE catalog.x AS SELECT 1
CREATE TABLE x (a INT)
CREATE VIEW x AS SELECT 1
CREATE OR REPLACE VIEW tokens AS SELECT 1
CREATE MACRO x() AS 1
CREATE SCHEMA x
CREATE SEQUENCE x
CREATE TYPE x AS ENUM ('a')
CREATE INDEX x ON artifacts (ref)
INSERT INTO artifacts (ref) VALUES ('x')
UPDATE artifacts SET kind = 'x'
DELETE FROM artifacts
TRUNCATE artifacts
DROP TABLE artifacts
DROP VIEW tokens
ALTER TABLE artifacts ADD COLUMN x INT
WITH x AS (INSERT INTO artifacts (ref) VALUES ('x') RETURNING *) FROM x
WITH x AS (DELETE FROM artifacts RETURNING *) FROM x
WITH x AS (UPDATE artifacts SET kind = 'x' RETURNING *) FROM x
INSERT INTO documents (id) VALUES ('x')
MERGE INTO artifacts a USING (SELECT 'x' AS ref) b ON a.ref = b.ref WHEN NOT MATCHED THEN INSERT (ref) VALUES (b.ref)
CREATE PERSISTENT SECRET x (TYPE s3, KEY_ID 'a', SECRET 'b')
CREATE SECRET x (TYPE s3)
CALL enable_logging(storage = 'file', storage_config = {'path': '{fresh}'})
CALL enable_logging('QueryLog')
CALL enable_profiling()
CALL start_ui()
CALL write_log('x')
-- change
SET memory_limit = '100GB'
SET threads = 64
SET enable_external_access = true
SET lock_configuration = false
SET allowed_directories = ['/']
SET allowed_paths = ['/etc/passwd']
SET python_enable_replacements = true
SET temp_directory = '{fresh}'
SET log_query_path = '{fresh}'
SET custom_extension_repository = '{root}'
SET home_directory = '/'
SET GLOBAL autoload_known_extensions = true
RESET memory_limit
SET profiling_output = '{fresh}'
PRAGMA enable_profiling
PRAGMA memory_limit = '1TB'
PRAGMA profiling_output = '{fresh}'
PRAGMA enable_logging
PRAGMA threads = 64
INSTALL httpfs
INSTALL '{outside}'
FORCE INSTALL spatial FROM community
LOAD httpfs
LOAD '{outside}'
UPDATE EXTENSIONS
EXECUTE x
COMMIT
ROLLBACK
SELECT 1; COPY (SELECT 1) TO '{fresh}'
/* ; */ SELECT 1; SET threads = 9
-- harmless: refused as no question, but what they do is in memory and gone with the child
ATTACH ':memory:' AS x
USE memory
COPY FROM DATABASE catalog TO memory
CREATE TEMP TABLE x AS SELECT 1
FORCE CHECKPOINT catalog
VACUUM
SET VARIABLE x = 1
SET search_path = 'memory'
PREPARE x AS DELETE FROM artifacts
DEALLOCATE x
BEGIN
SELECT 1; SELECT 2
PREPARE x AS SELECT 1; EXECUTE x
CREATE TEMP TABLE x AS SELECT 1; FROM x
SELECT 1;;SELECT 2
