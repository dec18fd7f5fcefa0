"""What was measured, as Markdown and JSON."""

import json

import numpy as np

from backprop_lib.speed import exponent


HEAD = """# Benchmark

CPU time of one step, forward and backward with the gradients of the input and of all parameters, in one thread. Each
peer has a process of its own; {rounds} rounds are interleaved, and a ratio is taken round by round. Every number is a
median, [in brackets] the lower and upper quartile. Differences under 10 % are noise. Before a peer is timed its
gradients are compared with those of the readable functions in float64.

fast: the functions of `backprop_lib.fast`, one after the other; nn: the objects, which call the same; readable: the
functions as they stand in the notebooks; products: the matrix products of `fast` alone, the nearest that NumPy can
come without fewer multiplications. A layer on images gets them in the order of memory in which the same library's
convolution hands them on: fast and nn with the examples last. readable, JAX and autograd stop after about 1.5 seconds
a row, but not before the third round.
"""
QUICK = """**A quick look, with one example: these numbers show that it runs, not how fast.**
"""
MEMORY = """MB that two steps need at most, beyond imports, inputs, parameters and what one example leaves behind, by
the system's high-water mark, each in a fresh process.
"""
GROWTH = """Milliseconds of a step, and k of the best fit time ~ size^k, over all sizes and over the last three.
"""
NUMERIC = """Milliseconds in a network of two layers: backpropagation; central differences, two forward passes an entry.
"""


def table(head, rows):
    """Lines of a Markdown table."""
    lines = [f"| {' | '.join(map(str, row))} |" for row in [head, *rows]]
    return [lines[0], "|" + "---|" * len(head), *lines[1:], ""]


def quartiles(values, digits=2):
    """Median [lower quartile, upper quartile]."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def ms(row, name):
    return f"{1e3 * np.median(row['seconds'][name]):.3g}" if name in row["seconds"] else "—"


def base(results):
    """Whose time is 1."""
    return "PyTorch" if "PyTorch" in results["info"] else "readable"


def ratios(row, name, by):
    """Seconds of one peer over those of another, in the rounds that both have run."""
    one, other = row["seconds"].get(name), row["seconds"].get(by)
    return [a / b for a, b in zip(one, other)] if one and other else None


def share(row):
    """Our part of np.matmul's speed."""
    seconds = row["seconds"].get("fast")
    return np.median([row["flops"] / s / p for s, p in zip(seconds, row["peak"])]) if seconds and row["flops"] else None


def meets(value, goal, least=False):
    """Whether a value meets its goal, with the digits that are printed; None if either is missing."""
    if value is None or goal is None:
        return None
    return bool(round(value, 2) >= goal if least else round(value, 2) <= goal)


def verdicts(row, by):
    """Do our ratio to PyTorch and our share of the peak meet their goals?"""
    values = ratios(row, "fast", by) if by == "PyTorch" else None
    return meets(values and np.median(values), row["goal"]), meets(share(row), row["share"], least=True)


def fits(row):
    """Whether we need no more memory than PyTorch; None if one of the two was not measured."""
    ours, theirs = (row["MB"].get(name) for name in ("fast", "PyTorch"))
    return ours <= theirs if isinstance(ours, float) and isinstance(theirs, float) else None


def mark(met, goal):
    return (goal or "") + {True: " met", False: " **not met**", None: ""}[met]


def curve(rows, name):
    """{size: median seconds} of a peer."""
    return {row["size"]: np.median(row["seconds"][name]) for row in rows}


# ------------------------------------------------------------------------------------------------ the four parts

def time_row(row, by, names):
    (met, near), part = verdicts(row, by), share(row)
    fast, *others = ["refused" if name in row["refused"] else quartiles(values) if values else "—"
                     for name in names for values in [ratios(row, name, by)]]
    return [row["name"], fast, mark(met, row["goal"] and f"≤ {row['goal']}"), *others, ms(row, "fast"), ms(row, by),
            "—" if part is None else f"{part:.0%}", mark(near, row["share"] and f"≥ {row['share']:.0%}")]


def time_lines(results):
    lines, by = [], base(results)
    names = ["fast", *(name for name in results["info"] if name not in ("fast", by))]
    for dtype, rows in results["time"].items():
        met = [[found for found in kind if found is not None] for kind in zip(*(verdicts(row, by) for row in rows))]
        goals = [f"{sum(kind)} of {len(kind)} {name}"
                 for kind, name in zip(met, ("ratios", "shares of the peak")) if kind] or ["none was held"]
        peak = quartiles([p / 1e9 for row in rows for p in row["peak"]], 1)
        lines += [f"## Time, {dtype}", "", f"Columns without a unit are ratios to {by}; below 1 is faster. np.matmul's "
                  f"peak in the same run: {peak} GFLOP/s. Goals met: {', '.join(goals)}.", ""]
        head = ["work", "fast", "goal", *names[1:], "fast, ms", f"{by}, ms", "of the peak", "goal"]
        lines += table(head, [time_row(row, by, names) for row in rows])
    return lines


def memory_lines(results):
    lines = []
    for dtype, rows in results["memory"].items():
        names = list(rows[0]["MB"])
        body = [[row["name"], *row["MB"].values(), {True: "yes", False: "**no**", None: "—"}[fits(row)]]
                for row in rows]
        lines += [f"## Memory high-water, {dtype}", "", MEMORY,
                  *table(["work", *names, "fast at or below PyTorch"], body)]
    return lines


def growth_lines(results):
    lines = ["## Growth, float32", "", GROWTH]
    for name, rows in results["growth"].items():
        body, limit = [], rows[0]["limit"]
        for peer in all_through(rows):
            k, last = exponent(curve(rows, peer)), exponent(curve(rows[-3:], peer))
            goal = mark(meets(k, limit), limit and f"≤ {limit}") if peer == "fast" else ""
            body.append([peer, *(ms(row, peer) for row in rows), f"{k:.2f}", f"{last:.2f}", goal])
        lines += table([name, *(f"{row['letter']} {row['size']}" for row in rows), "k", "k, last 3", "goal"], body)
    return lines


def all_through(rows):
    """The peers that were timed at every size, if there are two sizes."""
    return [name for name in rows[0]["seconds"] if len(rows) > 1 and all(name in row["seconds"] for row in rows)]


def numeric_lines(results):
    rows = results["numeric"]["float64"]
    body = [[row["size"], ms(row, "fast"), ms(row, "numeric"), f"{np.median(ratios(row, 'numeric', 'fast')):.0f}"]
            for row in rows if ratios(row, "numeric", "fast")]
    body.append(["k", *(f"{exponent(curve(rows, name)):.2f}" for name in all_through(rows)), ""])
    return ["## Numeric against analytic gradients, float64", "", NUMERIC,
            *table(["entries", "backpropagation", "central differences", "ratio"], body)]


def refusals(results):
    """Reasons why peers were not timed."""
    return [f"{row['name']}: {reason}" for part in ("time", "growth", "numeric")
            for rows in results.get(part, {}).values() for row in rows for reason in row["refused"].values()]


def environment(results):
    """Versions and thread pools of every peer, who is missing, the machine."""
    lines = ["## Environment", ""]
    for name, info in results["info"].items():
        pools = [" ".join(str(v) for v in (*pool.values(), "thread(s)") if v) for pool in info["pools"] or ()]
        lines.append(f"- {name}: {info['version']}; {'; '.join(pools) or 'threadpoolctl is not installed'}")
    lines += [f"- left out: {reason}" for reason in results["left_out"]]
    return [*lines, *(f"- {key}: {value}" for key, value in results["machine"].items()), ""]


def render(results, pictures=()):
    """The report. `pictures` are pairs (file name, what it shows)."""
    lines = [HEAD.format(rounds=results["rounds"]), *[QUICK] * results["quick"]]
    lines += [f"![{text}]({name})\n" for name, text in pictures]
    for part, build in {"time": time_lines, "memory": memory_lines, "growth": growth_lines,
                        "numeric": numeric_lines}.items():
        lines += build(results) if results.get(part) else []
    refused = refusals(results)
    lines += ["## Refused", "", *(f"- {reason}" for reason in refused), ""] if refused else []
    return "\n".join([*lines, *environment(results)])


def write(results, out, pictures=()):
    """report.md and results.json; returns the Markdown."""
    text = render(results, pictures)
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (out / "report.md").write_text(text, encoding="utf-8")
    return text
