"""Tables and figures of the study `segment`, from its committed results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import against_time
from against_time import with_deviation
from marked import check, write
from octavize.deploy.formats import PRECISIONS
from octavize.files import read_json, write_json
from octavize.study.analysis import minus, paired
from octavize.study.report import interval
from octavize.text import Table
from segment_networks import ARMS
from segment_scores import CLASSES, PLACES, REACH

OUT = Path(__file__).resolve().parent / "results/segment"
RESULTS, TABLES, FIGURE = "results.json", "tables.md", "milliseconds.svg"
TITLES = {"whole": "whole image", "border": f"within {REACH} pixels of a border"}


def write_results(runs: Sequence[dict[str, Any]], times: dict[str, Any] | None, out: Path = OUT) -> None:
    """Keep what was measured; times that were not measured now stay."""
    known = read_json(out / RESULTS) or {}
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / RESULTS, {"runs": list(runs), "times": times or known.get("times")})


def write_tables(out: Path = OUT) -> None:
    """`tables.md`, and the figure where there are times."""
    results: Any = read_json(out / RESULTS)
    write(out / TABLES, lambda _: page(results))
    if results["times"]:
        draw(results, out / FIGURE)


def check_tables(out: Path = OUT) -> None:
    """End the program: with 1 if the tables are not those of the results."""
    check((out / TABLES, lambda _: page(read_json(out / RESULTS))))


# ---- numbers -----------------------------------------------------------------------------------------------


def scores(results: dict[str, Any], arm: str, precision: str, place: str) -> dict[int, float]:
    """Mean IoU of an arm by seed; exported float32 is the network's own up to rounding."""
    found: dict[int, float] = {}
    for run in results["runs"]:
        score = run["test"] if precision == "float32" else run.get("exported", {}).get(precision)
        if run["arm"] == arm and score is not None:
            found[run["seed"]] = score[place]["mean"]
    return found


def milliseconds(results: dict[str, Any], arm: str, precision: str) -> float | None:
    """Of one scene, the median; None where it was not timed."""
    rows = (results["times"] or {"rows": []})["rows"]
    return next((r["median_ms"] for r in rows if (r["network"], r["precision"]) == (arm, precision)), None)


def arms_of(results: dict[str, Any]) -> list[str]:
    """Those with a finished run, vanilla first."""
    done = {run["arm"] for run in results["runs"]}
    return [arm.name for arm in ARMS if arm.name in done]


# ---- tables ------------------------------------------------------------------------------------------------


def page(results: Any) -> str:
    """All of `tables.md`."""
    parts = ["# Every pixel counts", "Written by `benchmarks/segment.py`.", conditions(results)]
    for place in PLACES:
        parts += [f"## Mean IoU, {TITLES[place]}", accuracy(results, place)]
    for place in PLACES:
        parts += [f"## IoU by class, {TITLES[place]}", by_class(results, place)]
    if results["times"]:
        parts.insert(3, f"![Mean IoU against milliseconds]({FIGURE})")
    return "\n\n".join(parts) + "\n"


def accuracy(results: dict[str, Any], place: str) -> str:
    """A row an arm: MACs; for each precision the mean over seeds, the paired difference, and the time."""
    macs = {run["arm"]: run["macs"] for run in results["runs"]}
    names = arms_of(results)
    rows = [
        [name, f"{macs[name] / 1e9:.2f} G"]
        + [cell for precision in PRECISIONS for cell in cells(results, name, precision, place)]
        for name in names
    ]
    head = ["arm", "MACs"]
    for precision in PRECISIONS:
        head += [precision, "− vanilla", "ms"]
    return Table(head, rows, align="lr").markdown()


def cells(results: dict[str, Any], arm: str, precision: str, place: str) -> list[str]:
    """Score, difference to vanilla, milliseconds."""
    own, vanilla = (scores(results, name, precision, place) for name in (arm, ARMS[0].name))
    difference = minus(own, vanilla) if arm != ARMS[0].name else {}
    time = milliseconds(results, arm, precision)
    return [
        with_deviation(own),
        interval(paired(difference)) if difference else "",
        "" if time is None else f"{time:.1f}",
    ]


def by_class(results: dict[str, Any], place: str) -> str:
    """A row a class, a column an arm: means over seeds, float32."""
    names = arms_of(results)
    rows = []
    for index, kind in enumerate(CLASSES):
        values = {
            name: [
                run["test"][place]["classes"][index]
                for run in results["runs"]
                if run["arm"] == name and run["test"][place]["classes"][index] is not None
            ]
            for name in names
        }
        rows.append([kind, *(f"{100 * sum(v) / len(v):.1f}" if v else "–" for v in values.values())])
    return Table(["class", *names], rows, align="lr").markdown()


def conditions(results: dict[str, Any]) -> str:
    """What a reader has to know about the numbers."""
    first = results["runs"][0]
    settings, where = first["settings"], first["environment"]
    height, width = settings["crop"]
    text = (
        "CamVid, 480 × 360 pixels, 11 classes, the selection of the SegNet tutorial, re-compressed as JPEG: "
        "few images that resemble each other; 62 of the 233 test images are of a drive that is in train too. "
        "DeepLabV3+ on EfficientNet-Lite0 of ImageNet, fine-tuned for "
        f"{settings['epochs']} epochs on crops of {width} × {height} pixels, batch {settings['batch']}, "
        f"{settings['precision']}; the epoch chosen on val, test scored once. In brackets behind a score the "
        "number of seeds, behind a difference its 95 % interval, paired by seed. Octave arms are made from "
        "the ImageNet encoder, channels by calibration, before fine-tuning. The arm on smaller images is "
        f"scored at full resolution. torch {where['torch']}, {where['processor']}."
    )
    if results["times"]:
        timed = results["times"]
        text += (
            f" Times: OpenVINO {timed['environment']['openvino']}, batch 1, one thread, CPU time, medians of "
            f"{timed['rounds']} rounds in which all arms and precisions take turns, without resizing of the "
            "smaller images and of their scores."
        )
    return text


def draw(results: dict[str, Any], path: Path) -> None:
    """Mean IoU against milliseconds: a row a place, a column a precision."""
    names = arms_of(results)
    rows = {
        f"mean IoU, %\n{TITLES[place]}": [
            [
                (milliseconds(results, name, precision), scores(results, name, precision, place))
                for name in names
            ]
            for precision in PRECISIONS
        ]
        for place in PLACES
    }
    against_time.draw(rows, names, "ms a scene", path)
