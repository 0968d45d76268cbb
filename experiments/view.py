"""Reports of several runs on one page, side by side: `python -m experiments.view --reports DIR DIR ... --out DIR`.

Takes folders with a `viewer.json`, as `experiments.evaluate` and `experiments.reconstruct` write them (`report/`), and
writes a page that shows each scene with the clouds and the answers of every run that has it. The reports must be of the
same data. To have the same scenes in all of them, give the second evaluation `--report_like` the first report.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments import reporting
from spatialsv_jax.report import markup, viewer_data


def join_reports(reports: Sequence[Path], out: Path, names: Sequence[str] = ()) -> Path:
    """Writes the page and copies the scenes beside it.

    Args:
      reports: folders of reports.
      out: made when missing.
      names: what to call the runs; by default what the reports call them, with a number where two are called alike.

    Returns:
      The page's path.

    Raises:
      FileNotFoundError, ValueError: a folder without viewer, of another format, or without one of its scenes; no folder,
        or another number of names; reports of different data; `out` is or holds one of the reports, or has a page that
        no earlier call wrote.
    """
    if names and len(names) != len(reports):
        raise ValueError(f"--names has {len(names)} names, expected one for each of the {len(reports)} reports.")
    if not reports:
        raise ValueError("--reports is empty. Give folders of reports.")
    found = [(report, viewer_data.read_runs(report)) for report in reports]
    _check_out(out, reports)
    hashes = [(str(report), run.get("data_sha256")) for report, held in found for run in held]
    for name in viewer_data.check_same_data(hashes):
        print(f"{name} does not say of which data its scenes are: scenes of the same name are taken for the same.")
    runs = []
    for number, (report, held) in enumerate(found, 1):
        for run in held:
            place = Path("scenes") / f"run{len(runs) + 1}"
            (out / place).mkdir(parents=True, exist_ok=True)
            scenes = []
            for scene in run["scenes"]:
                script = place / Path(scene["script"]).name
                shutil.copyfile(report / scene["script"], out / script)
                scenes.append({**scene, "script": script.as_posix()})
            name = names[number - 1] if names else run["name"]
            runs.append({"name": name, "data_sha256": run.get("data_sha256"), "scenes": scenes})
    called = [run["name"] for run in runs]
    for number, run in enumerate(runs, 1):
        if called.count(run["name"]) > 1:
            run["name"] = f"{run['name']} ({number})"
    viewer = viewer_data.write_runs(out, runs)
    of = ", ".join(f"<b>{markup.esc(run['name'])}</b> ({len(run['scenes'])} scenes)" for run in runs)
    body = f"<h1>Side by side</h1><p>{of}.</p>{viewer}"
    page = out / "index.html"
    page.write_text(markup.document("Side by side", body), "utf-8")
    return page


def _check_out(out: Path, reports: Sequence[Path]) -> None:
    """Raises ValueError where writing into `out` would replace a page that is not a joined one, or one that is read."""
    advice = "Give --out a folder of its own."
    for report in reports:
        if report.resolve().is_relative_to(out.resolve()):
            raise ValueError(f"--out {out} {'is' if report.samefile(out) else 'holds'} the report {report}. {advice}")
    if not any((out / name).exists() for name in ("index.html", "viewer.json")):
        return
    try:
        scenes = [scene for run in viewer_data.read_runs(out) for scene in run["scenes"]]
    except (OSError, ValueError):
        scenes = []
    # Of all pages the joined ones alone have a folder for each run.
    if not scenes or not all(re.match(r"scenes/run\d+/", scene["script"]) for scene in scenes):
        raise ValueError(f"--out {out} has a page of its own, which this command did not write. {advice}")


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    result = argparse.ArgumentParser(
        prog="python -m experiments.view", description="Shows several reports on one page."
    )
    result.add_argument("--reports", required=True, nargs="+", help="folders with an index.html and a viewer.json")
    result.add_argument("--out", required=True, help="folder to write into, none of the reports")
    result.add_argument("--names", nargs="*", default=[], help="what to call the runs, in the order of the reports")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; 2 for a mistake in its arguments or files."""
    flags = parser().parse_args(argv)

    def work() -> None:
        page = join_reports([Path(report) for report in flags.reports], Path(flags.out), flags.names)
        print(f"wrote {page}")

    return reporting.exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
