"""The ground floor: records, recipes, identity, the store of artifacts and the DuckDB index over it."""
