"""The lineage of an artifact as OpenLineage events, one JSON line each, for catalogs that speak it (Marquez, DataHub, ...).

Every artifact becomes one run: a START event when its making began and a COMPLETE event when its record was written, with the
artifact as output and what went into it as inputs. A data set's name is the whole reference, version included, and its version
the fingerprint: consumers that ignore versions still draw the exact graph. Run ids are derived from reference and fingerprint,
so that sending the events twice changes nothing. The events are written by hand against the published schema
(https://openlineage.io/spec/2-0-2/OpenLineage.json); the client library was refused, as all it adds is the sending.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import NAMESPACE_URL, uuid5

from . import index
from .lineage import MODEL, Graph, Node, graph_around
from .store import Store

SPEC = "https://openlineage.io/spec"
PRODUCER = "pkg:pypi/sea-lion-platform"
NAMESPACE = "sea-lion"
CRAWLS = "sea-lion/crawl"
"""Namespace of what corpora are made from and no artifact: crawls and their WARC files."""

Facet = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """What the index knows about the making of an artifact."""

    fingerprint: str
    licence: str
    bytes: int
    created: datetime
    seconds: float
    commit: str
    description: str
    rows: int | None
    """Documents, records or conversations, where the kind has them."""


def openlineage_events(
    store: Store, ref: str, *, up: bool = True, down: bool = True, depth: int | None = None, with_files: bool = False
) -> Iterator[str]:
    """The events of an artifact, its ancestors and its descendants as JSON lines, each run after those it needs."""
    graph = graph_around(store, ref, up=up, down=down, depth=depth, with_files=with_files)
    makings = _makings(store, graph)
    for name in graph.order():
        node, making = graph.nodes[name], makings.get(name)
        if making is None:  # it is an input of others, and there is nothing to say of its own making
            continue
        inputs = _inputs(graph, node, makings)
        begun = making.created - timedelta(seconds=making.seconds)
        yield _event("START", begun, node, making, inputs, [])
        yield _event("COMPLETE", making.created, node, making, inputs, [_output(node, making)])


def _makings(store: Store, graph: Graph) -> dict[str, Making]:
    _, rows = index.query(
        store,
        """SELECT ref, fingerprint, licence, bytes, created, seconds, commit, description, CAST(coalesce(
            body->>'documents_out', body->>'documents', body->>'rows', body->>'records') AS BIGINT)
        FROM artifacts WHERE ref IN (SELECT unnest($1))""",
        [list(graph.nodes)],
    )
    names = ("fingerprint", "licence", "bytes", "created", "seconds", "commit", "description", "rows")
    return {str(ref): Making(**dict(zip(names, values, strict=True))) for ref, *values in rows}


def _event(type_: str, when: datetime, node: Node, making: Making, inputs: list[Facet], outputs: list[Facet]) -> str:
    job = {"namespace": NAMESPACE, "name": node.ref.rpartition("@")[0], "facets": _job_facets(node, making)}
    engine = _facet("1-1-1/ProcessingEngineRunFacet", name=NAMESPACE, version=making.commit or "unknown")
    event = {
        "eventType": type_,
        "eventTime": when.astimezone(UTC).isoformat(),
        "producer": PRODUCER,
        "schemaURL": f"{SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent",
        "run": {
            "runId": str(uuid5(NAMESPACE_URL, f"{PRODUCER} {node.ref} {making.fingerprint}")),
            "facets": {"processing_engine": engine},
        },
        "job": job,
        "inputs": inputs,
        "outputs": outputs,
    }
    return json.dumps(event, ensure_ascii=False)


def _job_facets(node: Node, making: Making) -> Facet:
    facets: Facet = {
        "jobType": _facet("2-0-4/JobTypeJobFacet", processingType="BATCH", integration="SEA-LION", jobType=node.kind.upper())
    }
    commit = making.commit.removesuffix("+dirty")
    if len(commit) == 40:  # an installed wheel does not know its own
        facets["sourceCodeLocation"] = _facet(
            "1-1-0/SourceCodeLocationJobFacet", type="git", url=f"swh:1:rev:{commit}", version=making.commit
        )
    return facets


def _inputs(graph: Graph, node: Node, makings: dict[str, Making]) -> list[Facet]:
    inputs: list[Facet] = [
        {"namespace": NAMESPACE, "name": ref, "facets": _data_set_facets(graph.nodes[ref], makings.get(ref))}
        for ref in dict.fromkeys(edge.source for edge in graph.into(node.ref))
    ]
    for crawl in node.crawls:
        statistics = _facet("1-0-0/InputStatisticsInputDatasetFacet", rowCount=crawl.documents, fileCount=crawl.files)
        inputs.append({"namespace": CRAWLS, "name": crawl.name, "inputFacets": {"inputStatistics": statistics}})
        for path, documents in crawl.paths:
            statistics = _facet("1-0-0/InputStatisticsInputDatasetFacet", rowCount=documents, fileCount=1)
            inputs.append({"namespace": CRAWLS, "name": path, "inputFacets": {"inputStatistics": statistics}})
    return inputs


def _output(node: Node, making: Making) -> Facet:
    rows = {} if making.rows is None else {"rowCount": making.rows}
    return {
        "namespace": NAMESPACE,
        "name": node.ref,
        "facets": _data_set_facets(node, making),
        "outputFacets": {"outputStatistics": _facet("1-0-2/OutputStatisticsOutputDatasetFacet", size=making.bytes, **rows)},
    }


def _data_set_facets(node: Node, making: Making | None) -> Facet:
    """Version, words and tags; a licence and the stages that a model stands for are tags, as there is no facet for them."""
    if making is None:
        return {"documentation": _facet("1-1-0/DocumentationDatasetFacet", description=node.what)}
    tags = [("kind", node.kind), ("licence", making.licence), *(("promoted", stage) for stage in node.stages)]
    if node.verdict:
        tags.append(("gate", f"{node.stage}: {node.verdict}"))
    words = f"{node.what}. {making.description}".strip()
    return {
        "version": _facet("1-0-1/DatasetVersionDatasetFacet", datasetVersion=making.fingerprint),
        "datasetType": _facet("1-0-1/DatasetTypeDatasetFacet", datasetType="MODEL" if node.kind == MODEL else "FILE"),
        "documentation": _facet("1-1-0/DocumentationDatasetFacet", description=words),
        "tags": _facet(
            "1-0-0/TagsDatasetFacet", tags=[{"key": key, "value": value, "source": "SEA-LION"} for key, value in tags if value]
        ),
    }


def _facet(schema: str, **fields: object) -> Facet:
    """One facet of the specification, `version/Name`."""
    name = schema.partition("/")[2]
    return {"_producer": PRODUCER, "_schemaURL": f"{SPEC}/facets/{schema}.json#/$defs/{name}", **fields}
