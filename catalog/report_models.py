"""The report's sections on models: the lineage, the stages and their gates, the losses and the scores."""

from __future__ import annotations

from collections.abc import Sequence

from .charts import MARKS, Interval, forest, line_chart, lineage_picture
from .lineage import EVIDENCE, MODEL, SOURCES, Graph
from .markup import Child, Html, inside, tag
from .report_data import Row, language_name, language_order, legend, rows, section, table
from .store import Store

DRAWN = 80
"""Artifacts in the picture; a larger catalog is cut down to what the stages' models come from."""
PLOTTED = ("suite", "language")
"""Levels of a gate's tests that are drawn; single tasks are only counted."""
METRICS = {
    "bits_per_byte": ("Bits per byte", "How many bits the model needs for a byte of text it has not seen. Lower is better."),
    "acc": ("Accuracy", "Share of multiple-choice items answered rightly. Higher is better."),
    "margin": ("Margin", "Log-probability of the right answer among the choices, nats: 0 at best. Higher is better."),
}
"""Metric to its heading and what it says; others go by their own name."""


def badge(verdict: str) -> Html:
    """A verdict as sign, word and colour."""
    return tag("span", f"{MARKS.get(verdict, '?')} {verdict}", class_=f"verdict {verdict}")


def lineage_section(graph: Graph) -> Html | None:
    """The lineage as a picture."""
    shown = graph.without(EVIDENCE)
    note = ""
    if len(shown.nodes) > DRAWN:
        shown, note = (
            _towards_stages(shown),
            " Only what the stages’ models come from is drawn; `sea-lion catalog ls` lists all.",
        )
    if not shown.nodes:
        return None
    words = {"corpus": "corpus", "tokenizer": "tokenizer", "tokens": "token counts", "mixture": "mixture"}
    words |= {"conversations": "conversations", MODEL: "model"}
    present = {node.kind for node in shown.nodes.values()}
    figure = tag(
        "figure",
        tag("div", lineage_picture("Lineage: what was made from what", shown), class_="scroll wide"),
        legend([(f"back-{kind}", words[kind]) for kind in (*SOURCES, MODEL) if kind in present]),
        tag(
            "figcaption",
            "Arrows point from what went in to what came out; a dashed one is a merge’s base. The outline and the words in a "
            "model’s box are its gate’s verdict; a thick outline is a model that a stage’s alias points to." + note,
        ),
        class_="card",
    )
    return section("lineage", "Lineage", "From the crawl at the top to the last model at the bottom.", figure)


def _towards_stages(graph: Graph) -> Graph:
    wanted = [ref for ref, node in graph.nodes.items() if node.stages or node.verdict]
    kept = dict.fromkeys(wanted)
    while wanted:
        for edge in graph.into(wanted.pop()):
            if edge.source not in kept:
                kept[edge.source] = None
                wanted.append(edge.source)
    nodes = {ref: graph.nodes[ref] for ref in list(kept)[:DRAWN]}
    return Graph(nodes, tuple(edge for edge in graph.edges if edge.source in nodes and edge.target in nodes))


def decided(store: Store, graph: Graph) -> list[Row]:
    """Every gate decision with its promotion, in the order of the lineage."""
    found = rows(
        store,
        """SELECT d.*, (a.body->'$.baselines')::VARCHAR[] AS baselines, p.ref AS promotion, p.waiver_by, p.waiver_reason
        FROM decisions d JOIN artifacts a USING (ref) LEFT JOIN promotions p ON p.decision = d.ref
        ORDER BY a.created, d.ref""",
    )
    place = {ref: i for i, ref in enumerate(graph.order())}
    return sorted(found, key=lambda row: place.get(row["ref"], 0) if row["model"] not in place else place[row["model"]])


def standing(row: Row) -> str:
    """What became of a decision's candidate, in words."""
    if row["promotion"] and row["waiver_by"]:
        return f"Promoted under a waiver signed by {row['waiver_by']}: {row['waiver_reason']}"
    if row["promotion"]:
        return "Promoted"
    if row["kept"]:
        return f"Not promoted; the stage keeps {row['kept']}"
    return "Not promoted; the policy stops the chain here" if row["on_refusal"] == "stop" else "Not promoted"


def stages_section(decisions: Sequence[Row]) -> Html | None:
    """Every stage: candidate, baselines, verdict, reason, and what became of it."""
    if not decisions:
        return None
    return section(
        "stages",
        "Stages and verdicts",
        "A model may stand for a stage only when its gate lets it pass, or when somebody signs for it.",
        tag("div", [_stage(row) for row in decisions], class_="stages"),
    )


def _stage(row: Row) -> Html:
    against = [tag("span", ref, class_="ref") for ref in row["baselines"]] or [inside("absolute floors only")]
    compared = inside([inside(", " if i else "", what) for i, what in enumerate(against)])
    candidate = tag("span", row["model"], class_="ref")
    return tag(
        "article",
        tag("div", tag("h3", row["stage"]), badge(row["verdict"])),
        tag(
            "div",
            tag("p", tag("strong", standing(row))),
            tag("p", f"{row['reason'][:1].upper()}{row['reason'][1:].rstrip('.')}."),
            tag(
                "p",
                candidate,
                " against ",
                compared,
                f", policy {row['policy']}",
                class_="small quiet",
            ),
        ),
        class_="card stage",
    )


def losses_section(store: Store, graph: Graph) -> Html | None:
    """One small curve a training run."""
    log = rows(store, "SELECT ref, step, loss FROM training_log WHERE loss IS NOT NULL AND isfinite(loss) ORDER BY ref, step")
    runs: dict[str, list[Row]] = {}
    for row in log:
        runs.setdefault(row["ref"], []).append(row)
    ordered = [ref for ref in graph.order() if len(runs.get(ref, [])) > 1]
    if not ordered:
        return None
    return section(
        "losses",
        "Training losses",
        "Nats a token (SimPO: its own loss, a pair) over the steps: every step thin, the running mean thick. Each run has its "
        "own scale; objectives differ, so compare shapes.",
        tag("div", [_loss(ref, graph.nodes[ref].what, runs[ref]) for ref in ordered], class_="multiples"),
    )


def _loss(ref: str, what: str, log: Sequence[Row]) -> Html:
    steps, losses = [row["step"] for row in log], [row["loss"] for row in log]
    tail = max(1, len(losses) // 10)
    last = sum(losses[-tail:]) / tail
    title = f"Training loss of {ref}: {losses[0]:.3f} at step {steps[0]}, {last:.3f} over the last tenth"
    return tag(
        "figure",
        tag("h3", ref.split("/", 1)[-1]),
        tag("p", f"{what} · {losses[0]:.2f} → {last:.2f}", class_="small quiet", style="margin:0 0 8px"),
        line_chart(title, steps, losses),
    )


def scores_sections(store: Store, graph: Graph) -> list[Html]:
    """One table of models by languages for every suite, task and metric, each model beside its parent."""
    latest = rows(
        store,
        """SELECT suite, task, metric, model, language, arg_max(value, created) AS value, arg_max(stderr, created) AS stderr,
            bool_and(higher_is_better) AS higher_is_better, max(items)::BIGINT AS items
        FROM scores JOIN artifacts USING (ref) GROUP BY ALL ORDER BY ALL""",
    )
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in latest:
        groups.setdefault((row["suite"], row["task"], row["metric"]), []).append(row)
    first = list(METRICS)
    keys = sorted(groups, key=lambda key: (first.index(key[2]) if key[2] in first else len(first), key))
    return [_scores(key, groups[key], graph, f"scores-{i}") for i, key in enumerate(keys)]


def parent_of(graph: Graph, ref: str) -> str:
    """The model another was trained from, or the base it was merged onto; empty for the first one."""
    roles = {edge.role: edge.source for edge in graph.into(ref) if graph.nodes[edge.source].kind == MODEL}
    return roles.get("model") or roles.get("base") or next(iter(roles.values()), "")


def _scores(key: tuple[str, str, str], found: Sequence[Row], graph: Graph, anchor: str) -> Html:
    suite, task, metric = key
    heading, meaning = METRICS.get(
        metric, (metric, "Higher is better." if found[0]["higher_is_better"] else "Lower is better.")
    )
    codes = language_order({row["language"] for row in found})
    values = {(row["model"], row["language"]): row["value"] for row in found}
    sign = 1.0 if found[0]["higher_is_better"] else -1.0
    models = [ref for ref in graph.order() if any((ref, code) in values for code in codes)]
    for ref in models:
        own = [values[ref, code] for code in codes if (ref, code) in values]
        values[ref, ""] = sum(own) / len(own)
    columns = ["", *codes] if len(codes) > 1 else codes
    changes = {
        (ref, code): values[ref, code] - values[parent_of(graph, ref), code]
        for ref in models
        for code in columns
        if (ref, code) in values and (parent_of(graph, ref), code) in values
    }
    # The largest changes come with the first training; a bent scale keeps the later ones visible beside them.
    most = max((abs(change) for change in changes.values()), default=0.0) or 1.0

    def shown(ref: str, code: str) -> Html:
        if (ref, code) not in values:
            return tag("td", tag("span", "not scored", class_="quiet small"))
        change = changes.get((ref, code))
        if change is None:
            return tag("td", f"{values[ref, code]:.3f}")
        tone = "better" if change * sign > 0 else "worse"
        style = f"background:color-mix(in srgb, var(--{tone}) {42 * (abs(change) / most) ** 0.4:.0f}%, transparent)"
        arrow = "▲" if change > 0 else "▼" if change < 0 else "="
        return tag("td", f"{values[ref, code]:.3f}", tag("small", f"{arrow} {abs(change):.3f}"), style=style)

    head = tag("tr", tag("th", "Model", scope="col"), [tag("th", _column(code), scope="col") for code in columns])
    body = [
        tag("tr", tag("th", ref.split("/", 1)[-1], scope="row", class_="ref"), [shown(ref, code) for code in columns])
        for ref in models
    ]
    tones = [("k-better", "better than the parent"), ("k-worse", "worse than the parent")]
    return section(
        anchor,
        f"{heading}, by language",
        f"{meaning} Suite {suite}, task {task}. The small figure is the change from the model it was trained from or merged "
        "onto.",
        tag("div", tag("table", tag("thead", head), tag("tbody", body), class_="heat"), class_="scroll card"),
        legend(tones),
    )


def _column(code: str) -> Child:
    return "Mean" if not code else tag("abbr", code, title=language_name(code), style="text-decoration:none")


def gates_section(store: Store, decisions: Sequence[Row]) -> Html | None:
    """Each gate's tests as forest plots, the whole suite, languages and floors; tasks are counted only."""
    outcomes = rows(store, "SELECT * FROM outcomes ORDER BY ref, baseline, metric, level, node")
    if not outcomes:
        return None
    return section(
        "gates",
        "The gates’ evidence",
        "Each line is a difference between candidate and baseline on the same items, turned so that right of zero is better, "
        "with its confidence bounds. The dotted tick is the margin: to pass, the lower bound must stay to the right of it.",
        [_gate(row, [o for o in outcomes if o["ref"] == row["ref"]]) for row in decisions],
    )


def _gate(decision: Row, outcomes: Sequence[Row]) -> Html:
    summary = tag(
        "summary",
        badge(decision["verdict"]),
        tag("strong", decision["stage"]),
        tag("span", f" {_counted(outcomes)}" if outcomes else " no test was made", class_="quiet"),
    )
    if not outcomes:
        return tag("details", summary, tag("p", decision["reason"]))
    plots = []
    for baseline, metric in dict.fromkeys((o["baseline"], o["metric"]) for o in outcomes if o["level"] != "floor"):
        mine = [
            o for o in outcomes if (o["baseline"], o["metric"]) == (baseline, metric) and o["level"] in ("suite", "language")
        ]
        places = ["", *language_order({_place(o) for o in mine if _place(o)})]
        mine.sort(key=lambda o: places.index(_place(o)))
        if mine:
            title = f"{METRICS.get(metric, (metric, ''))[0]} against {baseline}"
            plots += [tag("h3", title), tag("div", forest(title, [_interval(o) for o in mine]), class_="scroll wide")]
    floors = [o for o in outcomes if o["level"] == "floor"]
    tasks = [o for o in outcomes if o["level"] == "task"]
    return tag(
        "details",
        summary,
        plots,
        _floors(floors) if floors else None,
        tag("p", f"Tests of single tasks besides: {_counted(tasks)}.", class_="small quiet") if tasks else None,
        open="" if decision["verdict"] != "pass" else None,
    )


def _counted(outcomes: Sequence[Row]) -> str:
    count = {verdict: sum(o["verdict"] == verdict for o in outcomes) for verdict in MARKS}
    return ", ".join(f"{number} {verdict}" for verdict, number in count.items() if number)


def _place(outcome: Row) -> str:
    """The language of a test's node, empty for the whole suite."""
    return str(outcome["node"]).partition("/")[2]


def _interval(outcome: Row) -> Interval:
    place = _place(outcome)
    return Interval(
        label=language_name(place) if place else "Whole suite",
        delta=outcome["delta"],
        lower=outcome["lower"],
        upper=outcome["upper"],
        margin=outcome["margin"],
        verdict=outcome["verdict"],
        figures=f"{outcome['node']}: {outcome['candidate_value']:.4f} against {outcome['baseline_value']:.4f}, adjusted p "
        f"{outcome['p_value']:.3g}, {outcome['items']} items in {outcome['clusters']} clusters: {outcome['verdict']}",
    )


def _floors(floors: Sequence[Row]) -> Html:
    body: list[list[Child]] = [
        [o["node"], o["candidate_value"], o["baseline_value"], o["lower"], badge(o["verdict"])] for o in floors
    ]
    return inside(tag("h3", "Floors"), table(["Node", "Score", "Floor", "Lower bound above the floor", "Verdict"], body))
