"""The OpenLineage events, read back by OpenLineage's own client, whose classes are generated from its schema."""

from __future__ import annotations

import importlib
import json
import pkgutil
from typing import Any

import pytest

from sea_lion.catalog.openlineage import openlineage_events
from sea_lion.catalog.store import Store

event_v2 = pytest.importorskip("openlineage.client.event_v2")
generated = importlib.import_module("openlineage.client.generated")
serde = importlib.import_module("openlineage.client.serde").Serde


def facet_classes() -> dict[str, Any]:
    """Schema address to the client's class of that facet."""
    found = {}
    for module in pkgutil.iter_modules(generated.__path__):
        for value in vars(importlib.import_module(f"{generated.__name__}.{module.name}")).values():
            if isinstance(value, type) and hasattr(value, "_get_schema"):
                found[value._get_schema()] = value
    return found


CLASSES = facet_classes()


def facets_of(table: dict[str, Any]) -> dict[str, Any]:
    """Facets as the client's objects; raises for a field that is unknown or missing, or a version that it does not have."""
    made = {}
    for name, facet in table.items():
        own = {key: value for key, value in facet.items() if not key.startswith("_")}
        made[name] = CLASSES[facet["_schemaURL"]](**own, producer=facet["_producer"])
    return made


def event_of(table: dict[str, Any]) -> Any:
    """An event as the client's object."""

    def data_set(kind: Any, own: str, given: dict[str, Any]) -> Any:
        return kind(**{key: facets_of(value) if key in ("facets", own) else value for key, value in given.items()})

    run, job = table["run"], table["job"]
    return event_v2.RunEvent(
        eventType=event_v2.RunState[table["eventType"]],
        eventTime=table["eventTime"],
        producer=table["producer"],
        run=event_v2.Run(runId=run["runId"], facets=facets_of(run["facets"])),
        job=event_v2.Job(namespace=job["namespace"], name=job["name"], facets=facets_of(job["facets"])),
        inputs=[data_set(event_v2.InputDataset, "inputFacets", given) for given in table["inputs"]],
        outputs=[data_set(event_v2.OutputDataset, "outputFacets", given) for given in table["outputs"]],
    )


def without_nothing(value: Any) -> Any:
    """Without the empty tables that the client adds where a facet was not given."""
    if isinstance(value, dict):
        return {key: without_nothing(item) for key, item in value.items() if item != {}}
    return [without_nothing(item) for item in value] if isinstance(value, list) else value


def events(store: Store, ref: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in openlineage_events(store, ref)]


def test_the_client_reads_every_event_as_it_was_written(filled: Store) -> None:
    written = events(filled, "checkpoint/tiny-llama-cpt@1")
    assert len(written) > 30
    for table in written:
        assert without_nothing(serde.to_dict(event_of(table))) == without_nothing(table)


def test_one_run_an_artifact_each_after_what_it_needs(filled: Store) -> None:
    complete = [event for event in events(filled, "checkpoint/tiny-llama-it@1") if event["eventType"] == "COMPLETE"]
    outputs = [event["outputs"][0]["name"] for event in complete]
    assert len(outputs) == len(set(outputs)) == len({event["run"]["runId"] for event in complete})
    for i, event in enumerate(complete):
        assert {given["name"] for given in event["inputs"]} <= set(outputs[:i])
    (final,) = (event for event in complete if event["outputs"][0]["name"] == "checkpoint/tiny-llama-it@1")
    assert final["job"]["name"] == "checkpoint/tiny-llama-it"
    assert len(final["inputs"]) == 3  # base and two parents
    facets = final["outputs"][0]["facets"]
    assert facets["version"]["datasetVersion"] == filled.require("checkpoint/tiny-llama-it@1").fingerprint
    tags = {(tag["key"], tag["value"]) for tag in facets["tags"]["tags"]}
    assert ("promoted", "tiny-llama/final") in tags and ("gate", "tiny-llama/final: pass") in tags
    (corpus,) = (event["outputs"][0] for event in complete if event["outputs"][0]["name"] == "corpus/tiny@1")
    assert corpus["outputFacets"]["outputStatistics"]["rowCount"] > 100


def test_the_same_lineage_gives_the_same_events(filled: Store) -> None:
    ref = "checkpoint/tiny-llama-cpt@1"
    assert list(openlineage_events(filled, ref)) == list(openlineage_events(Store(filled.root), ref))
    starts = {event["run"]["runId"]: event["eventTime"] for event in events(filled, ref) if event["eventType"] == "START"}
    ends = {event["run"]["runId"]: event["eventTime"] for event in events(filled, ref) if event["eventType"] == "COMPLETE"}
    assert starts.keys() == ends.keys() and all(starts[run] <= ends[run] for run in starts)
