"""The report as markdown, for the terminal and the README."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import finetuning
import generation
import objectives
import pretraining
import sides
from families import ratio
from rounds import Result, speedup
from systems.registry import REFERENCE
from workloads import Workload

QUIET_CORES = 0.1
# Places in the README, between <!-- NAME:start --> and <!-- NAME:end -->.
MAIN, OBJECTIVES = "bench", "bench-objectives"

# What the figures are read for: (what, workload, system, the system it is compared with).
COMPARISONS = (
    ("mixed", "bothways fp32", REFERENCE),
    ("mixed", "bothways bf16", REFERENCE),
    ("mixed", "bothways bf16", "sentence-transformers bf16"),
    ("mixed", "bothways fp32", "OpenVINO by hand fp32"),
    ("mixed", "bothways bf16", "OpenVINO by hand bf16"),
    ("mixed", "bothways bf16", "OpenVINO by hand int8"),
    ("mixed", "bothways fp32", "bare products fp32"),
    ("mixed", "bothways bf16", "bare products bf16"),
    ("wide", "bothways fp32", REFERENCE),
    ("wide", "bothways bf16", REFERENCE),
    ("wide", "bothways bf16", "OpenVINO by hand bf16"),
    ("wide", "bothways fp32", "bare products fp32"),
    ("wide", "bothways bf16", "bare products bf16"),
    ("query", "bothways fp32", REFERENCE),
    ("query", "bothways bf16", REFERENCE),
    ("query", "bothways bf16", "OpenVINO by hand bf16"),
)


def figure(value: float | None, digits: int, unit: str = "") -> str:
    """A number with its unit, or a dash where there is none."""
    return "–" if value is None else f"{value:,.{digits}f}{unit}"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are numbers."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))


def tokens_per_second(result: Result, name: str, workload: Workload) -> float | None:
    """Real tokens a second at the median time."""
    seconds = result.seconds.get(name)
    return workload.tokens / median(seconds) if seconds else None


def query_milliseconds(result: Result) -> float | None:
    """The median of all calls, in milliseconds."""
    calls = result.calls.get("query")
    return 1000 * median(calls) if calls else None


def system_cells(result: Result, reference: Result, workloads: dict[str, Workload]) -> list[str]:
    """One system's row."""
    cells = [result.name]
    for name in ("mixed", "wide"):
        cells.append(figure(tokens_per_second(result, name, workloads[name]), 0))
        cells.append(figure(speedup(result, reference, name), 2, "×"))
    cells.append(figure(query_milliseconds(result), 2))
    cells.append(figure(speedup(result, reference, "query"), 2, "×"))
    cells += [figure(result.min_cosine, 5), figure(result.mean_cosine, 5), figure(result.megabytes, 0)]
    return cells


def systems_table(results: Sequence[Result], workloads: dict[str, Workload]) -> str:
    """All systems; a system that failed has its reason underneath."""
    head = ["system", "mixed, tokens/s", "×", "wide, tokens/s", "×", "query p50, ms", "×"]
    head += ["min cosine", "mean cosine", "peak MB"]
    reference = next(result for result in results if result.name == REFERENCE)
    rows = [system_cells(result, reference, workloads) for result in results]
    failures = [f"- {result.name} failed: {result.failure}" for result in results if result.failure]
    return "\n".join([markdown_table(head, rows), *([""] if failures else []), *failures])


def comparisons(results: Sequence[Result]) -> list[dict[str, Any]]:
    """The ratios that the figures are read for; those without measurements are left out."""
    by_name = {result.name: result for result in results}
    found = []
    for workload, system, other in COMPARISONS:
        if system in by_name and other in by_name:
            ratio = speedup(by_name[system], by_name[other], workload)
            if ratio is not None:
                found.append({"what": f"{workload} speed", "system": system, "than": other, "ratio": ratio})
    return found + memory_comparisons(by_name)


def memory_comparisons(by_name: dict[str, Result]) -> list[dict[str, Any]]:
    """Our peak memory as a part of the reference's."""
    theirs = by_name[REFERENCE].megabytes if REFERENCE in by_name else None
    ours = [by_name[name] for name in ("bothways fp32", "bothways bf16") if name in by_name]
    return [
        {"what": "peak memory", "system": one.name, "than": REFERENCE, "ratio": one.megabytes / theirs}
        for one in ours
        if one.megabytes and theirs
    ]


def comparisons_table(found: Sequence[dict[str, Any]]) -> str:
    """The ratios, one a line."""
    rows = [[f"{one['what']}: {one['system']} / {one['than']}", figure(one["ratio"], 2, "×")] for one in found]
    return markdown_table(["ratio", "×"], rows)


def cold_table(cold: dict[str, float | str]) -> str:
    """Seconds of fresh processes."""
    rows = [[name, f"{value:.3f}" if isinstance(value, float) else f"failed: {value}"] for name, value in cold.items()]
    return markdown_table(["fresh process", "seconds"], rows)


def versions_line(results: Sequence[Result], *parts: dict[str, dict[str, Any] | str]) -> str:
    """Every package version in use, each once. parts: the results of families and sizes, by name."""
    used = [result.versions for result in results]
    used += [result["versions"] for part in parts for result in part.values() if not isinstance(result, str)]
    pairs = {pair: None for versions in used for pair in versions.items()}
    return ", ".join(f"{name} {version}" for name, version in sorted(pairs))


def size(name: str, workload: Workload) -> str:
    """A workload's texts and lengths, in words."""
    count = len(workload.texts)
    return f"{name}: {count:,} {'text' if count == 1 else 'texts'}, mean {workload.tokens / count:.1f} tokens"


def where(report: dict[str, Any]) -> str:
    """When and on what the figures were measured."""
    machine = report["machine"]
    return (
        f"{report['date']}, {machine['cpu']}, {machine['cores']} cores ({machine['instructions']}), "
        f"{report['threads']} threads, Python {machine['python']}"
    )


def conditions(report: dict[str, Any], workloads: dict[str, Workload]) -> str:
    """Where, when and on what the figures were measured, and how they are to be read."""
    sizes = "; ".join(size(name, workloads[name]) for name in ("mixed", "wide", "query"))
    return (
        f"{where(report)}; {report['rounds']} interleaved rounds, medians. {sizes}. "
        f"× is the speed relative to {REFERENCE}. {report['versions']}."
    )


def families_table(found: dict[str, dict[str, Any] | str]) -> str:
    """Each family beside transformers; one that failed has its reason underneath."""
    peers = [head for order in ("as they come", "by length") for head in (f"transformers, texts {order}", "×")]
    head = ["6 layers of 384, fp32, tokens/s", "bothways", *peers, "max difference"]
    rows = [family_cells(family, result) for family, result in found.items() if not isinstance(result, str)]
    failures = [f"- {family} failed: {result}" for family, result in found.items() if isinstance(result, str)]
    return "\n".join([markdown_table(head, rows), *([""] if failures else []), *failures])


def family_cells(family: str, result: dict[str, Any]) -> list[str]:
    """One family's row."""
    cells = [family, figure(result["tokens"] / median(result["ours"]), 0)]
    for order in ("as_they_come", "by_length"):
        cells += [figure(result["tokens"] / median(result[order]), 0), figure(ratio(result, order), 2, "×")]
    return [*cells, f"{result['difference']:.0e}"]


def pretraining_table(found: dict[str, dict[str, Any] | str]) -> str:
    """Each system with each size, then the ratios; a size that failed has its reason underneath."""
    sizes = {size: result for size, result in found.items() if not isinstance(result, str)}
    failures = [f"- pretraining, {size} failed: {result}" for size, result in found.items() if isinstance(result, str)]
    parts = ["\n".join(failures)] if failures else []
    if sizes:
        parts = [speeds_table(sizes), training_ratios_table(sizes), pipeline_line(sizes), *parts]
    return "\n\n".join(parts)


def speeds_table(sizes: dict[str, dict[str, Any]]) -> str:
    """Tokens a second of each system, what part of the products' rate they take, and peak memory."""
    head = [f"pretraining in bf16, {pretraining.STEP_TOKENS:,} tokens a step"]
    for size in sizes:
        head += [f"{size}, tokens/s", "of products' rate", "peak MB"]
    rows = []
    for system in pretraining.SYSTEMS:
        cells = [system.name]
        for result in sizes.values():
            cells.append(figure(median(result["speeds"][system.name]), 0))
            cells.append(figure(100 * pretraining.share(result, system), 0, " %"))
            cells.append(figure(result["megabytes"][system.name], 0))
        rows.append(cells)
    return markdown_table(head, rows)


def training_ratios_table(sizes: dict[str, dict[str, Any]]) -> str:
    """Speed and peak memory of one system relative to another."""
    rows = []
    for what, quotient in (("speed", pretraining.ratio), ("peak memory", pretraining.memory_ratio)):
        for ours, theirs in pretraining.COMPARISONS:
            cells = [figure(quotient(result, ours.name, theirs.name), 2, "×") for result in sizes.values()]
            rows.append([f"pretraining {what}: {ours.name} / {theirs.name}", *cells])
    return markdown_table(["ratio", *sizes], rows)


def pipeline_line(sizes: dict[str, dict[str, Any]]) -> str:
    """How much was measured, the speed of preparing batches, and what was tried of the peer."""
    speed = median(one for result in sizes.values() for one in result["pipeline"])
    told = "; ".join(f"{size}: {setting_in_words(result)}" for size, result in sizes.items())
    return f"Pretraining: from shards to packed, masked batches {speed / 1e6:.2f} M tokens/s on one core. {told}."


def finetuning_table(found: dict[str, dict[str, Any] | str]) -> str:
    """Training and predicting, beside a plain loop of transformers; failures in words."""
    head = "fine-tuning, 32 rows a step, bf16"
    return _beside_transformers("finetuning", head, finetuning.WORKLOADS, found)


def generation_table(found: dict[str, dict[str, Any] | str]) -> str:
    """Written tokens a second, beside transformers' generate; failures in words."""
    return _beside_transformers("generation", "writing 32 tokens, fp32", generation.WORKLOADS, found)


def _beside_transformers(
    part: str, title: str, workloads: Mapping[str, Any], found: dict[str, dict[str, Any] | str]
) -> str:
    head = [title, *(f"{side}, tokens/s" for side in sides.SIDES.values()), "×"]
    head += ["bothways, peak MB", "transformers, peak MB", "peak / transformers'"]
    rows = []
    for name, result in found.items():
        if not isinstance(result, str):
            cells = [workloads[name].title]
            cells += [figure(median(result["speeds"][side]), 0) for side in sides.SIDES.values()]
            cells.append(figure(sides.ratio(result), 2, "×"))
            cells += [figure(result["megabytes"][side], 0) for side in sides.SIDES.values()]
            rows.append([*cells, figure(sides.memory_ratio(result), 2)])
    failures = [f"- {part}, {name} failed: {result}" for name, result in found.items() if isinstance(result, str)]
    return "\n".join([markdown_table(head, rows), *([""] if failures else []), *failures])


def setting_in_words(result: dict[str, Any]) -> str:
    """The rounds of one size, and the rows at a time that were tried for transformers."""
    amount, tried = result["amount"], result["setting"]["tried"]
    each = ", ".join(f"{rows}: {one['seconds']:.1f} s and {one['megabytes']:,.0f} MB" for rows, one in tried.items())
    return (
        f"{amount['rounds']} rounds of {amount['steps']} steps, transformers with {result['setting']['rows']} "
        f"rows at a time ({each})"
    )


def objectives_table(found: dict[str, dict[str, Any] | str]) -> str:
    """A table for each size, and under it what is to be known about it."""
    whole = {size: result for size, result in found.items() if not isinstance(result, str)}
    return "\n\n".join(part for size, result in whole.items() for part in objectives_of_size(size, result))


def objectives_of_size(size: str, result: dict[str, Any]) -> list[str]:
    """Each objective beside transformers and beside our masked language modelling; then causal by its own measure."""
    each = result["objectives"]
    head = [
        f"objectives, {size}, bf16",
        "bothways, tokens/s",
        "transformers, tokens/s",
        "×",
        "peak MB",
        "transformers'",
    ]
    head += ["time a token / mlm's", "operations / mlm's", "quotient"]
    table = markdown_table(head, [objective_cells(name, each) for name in each])
    return [table, *objective_notes(size, result)]


def objective_cells(name: str, each: dict[str, dict[str, Any]]) -> list[str]:
    """One objective's row."""
    one = each[name]
    cost, counted = objectives.faster(one, "reference", "ours"), objectives.flops_over(each, name)
    quotient = cost / counted if cost and counted else None
    cells = [name, *(figure(objectives.speed(one, side), 0) for side in ("ours", "theirs"))]
    cells.append(figure(objectives.faster(one, "ours", "theirs"), 2, "×"))
    cells += [figure(one[side]["megabytes"] if objectives.speed(one, side) else None, 0) for side in ("ours", "theirs")]
    return [*cells, *(figure(value, 2) for value in (cost, counted, quotient))]


def objective_notes(size: str, result: dict[str, Any]) -> list[str]:
    """Lines under a size's table: rounds, peers, causal's own measure; and what failed."""
    amount, each = result["amount"], result["objectives"]
    peers = "; ".join(peer_in_words(name, one) for name, one in each.items() if one["setting"])
    told = f"Objectives, {size}: {amount['rounds']} rounds of {amount['steps']} steps. transformers: {peers}."
    measured = objectives.cost_with_head(each["causal"])
    if measured is not None:
        head = f"the head on all other rows ({1e6 * median(each['causal']['heads']):.1f} µs a token)"
        told += f" causal takes {measured:.2f} of the time of mlm and of {head}."
    both = {"bothways": "ours", "transformers": "theirs"}
    failed = [(who, name, one[side]["failure"]) for name, one in each.items() for who, side in both.items()]
    failures = [f"- {who}, {name}, {size} failed: {reason}" for who, name, reason in failed if reason]
    return [told, "\n".join(failures)] if failures else [told]


def peer_in_words(name: str, one: dict[str, Any]) -> str:
    """What of transformers learns an objective, and how."""
    return f"{name}: {objectives.TASKS[name].title}, {one['setting']['rows']} rows at a time"


def disturbance(results: Sequence[Result], *parts: dict[str, dict[str, Any] | str]) -> float:
    """Cores that processes other than the one measured kept busy, on average over all runs."""
    runs = [cores for result in results for cores in result.disturbance]
    runs += [result["disturbance"] for part in parts for result in part.values() if not isinstance(result, str)]
    return sum(runs) / len(runs) if runs else 0.0


def warning(cores: float) -> list[str]:
    """A line that disqualifies the figures where other processes took part of the machine."""
    if cores <= QUIET_CORES:
        return []
    return [f"**Not to be relied on: other processes kept {cores:.2f} cores busy during the runs.**"]


def render(report: dict[str, Any], results: Sequence[Result], workloads: dict[str, Workload]) -> str:
    """The report, but for what objectives cost."""
    parts = [conditions(report, workloads), *warning(report["disturbance"])]
    if results:
        parts.append(systems_table(results, workloads))
    if report["comparisons"]:
        parts.append(comparisons_table(report["comparisons"]))
    if report["cold"]:
        parts.append(cold_table(report["cold"]))
    if report["families"]:
        parts.append(families_table(report["families"]))
    if report["pretraining"]:
        parts.append(pretraining_table(report["pretraining"]))
    if report["finetuning"]:
        parts.append(finetuning_table(report["finetuning"]))
    if report["generation"]:
        parts.append(generation_table(report["generation"]))
    return "\n\n".join(parts)


def render_objectives(report: dict[str, Any]) -> str:
    """The report of what objectives cost."""
    told = f"{where(report)}. {report['versions']}."
    return "\n\n".join([told, *warning(report["disturbance"]), objectives_table(report["objectives"])])


def around(file: Path, place: str) -> tuple[str, str]:
    """What stands before and behind a place of a markdown file, with its two markers; ValueError where they are not."""
    opening, closing = f"<!-- {place}:start -->", f"<!-- {place}:end -->"
    before, start, rest = file.read_text().partition(opening)
    _, end, after = rest.partition(closing)
    if not (start and end):
        raise ValueError(f"{file.name} has no {opening} … {closing} to write the table between")
    return before + start, end + after


def write_between_markers(file: Path, place: str, text: str) -> None:
    """Replaces what stands between the two markers of a place; raises as `around` does."""
    before, after = around(file, place)
    file.write_text(f"{before}\n{text}\n{after}")
