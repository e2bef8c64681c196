"""`engine predict` from end to end: files found, judged, written; Ctrl-C keeps what was judged."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from engine import files
from engine.errors import DataError
from engine.predict import summary
from engine.predict.judge import Judged, judge
from engine.predict.referral import Rule, worth
from engine.predict.told import read_told
from engine.progress import Progress
from engine.runs.folder import RunFolder
from engine.runs.results import image_files

__all__ = ["Rule", "predict"]


def predict(
    folder: RunFolder,
    sources: Sequence[Path],
    *,
    cases: Path | None = None,
    rule: Rule | None = None,
    out: Path | None = None,
    report: Path | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    say: Callable[[str], object] = lambda _: None,
) -> tuple[Judged, dict[str, Any]]:
    """Judge files and folders; write the table and the report where they are asked for.

    Args:
        cases: a CSV that tells case and label, see `engine.predict.told`.
        out: the table as CSV. report: an HTML file.
        say: called with a sentence when a phase begins or a stop is asked for.

    Returns:
        What was judged, and the document of `predict --json`: `n`, `predictions`, `per_case`, `scores`,
        `calibration`, `refused`, `not_normalised` (image_ids in their own colours; null where the stain is
        not normalised), `referred`, `said` (sentences).

    Raises:
        DataError, RunError, EnsembleError: see `engine.predict.judge.judge`.
    """
    rule = rule or Rule()
    told = read_told(cases) if cases else None
    with _stoppable(say) as stopped:
        judged = judge(
            folder, image_files(sources), told=told, progress=progress, stop=stopped.is_set, device=device
        )
    if out:
        try:
            files.write_csv(out, files.spreadsheet_safe(judged.table))
        except OSError as error:
            raise DataError(
                "The predictions cannot be written",
                found=f"{error.strerror or error}: {out}",
                remedy="Give a file in a folder that you may write",
            ) from error
    met = summary.met_before(folder, judged.table)
    if report:
        from engine.report.judged import write_judged_report

        write_judged_report(folder, judged, rule, report)
    said = summary.sentences(judged, rule, met, folder.name)
    value = worth(folder, rule, judged.calibration)
    said += [str(value)] if value else []
    said += [f"{title}: {text}" for title, text in summary.score_lines(judged, met)]
    left_out = summary.left_out_sentence(judged, met)
    said += [left_out] if left_out else []
    said += ["Stopped before the last image."] if judged.stopped else []
    return judged, {
        "n": len(judged.table),
        "predictions": _plain(judged.table),
        "per_case": _plain(summary.case_rows(judged, rule)),
        "scores": {name: one.as_record() for name, one in summary.scores(judged, met).items()},
        "calibration": judged.calibration.as_record(),
        "refused": [{"name": one.name, "reason": one.reason} for one in judged.refused],
        "not_normalised": None if judged.own_colours is None else list(judged.own_colours),
        "referred": sum(bool(why) for why in rule.reasons(judged.table)),
        "stopped": judged.stopped,
        "said": [*said, summary.RESEARCH],
    }


def _plain(table) -> list[dict[str, Any]]:
    """Records for JSON: NaN becomes null, numpy numbers become Python's."""
    return [
        {str(key): None if value != value else value for key, value in row.items()}
        for row in table.astype(object).to_dict(orient="records")
    ]


@contextlib.contextmanager
def _stoppable(say: Callable[[str], object]) -> Iterator[threading.Event]:
    """While this lasts the first Ctrl-C sets the event; the second ends the program as usual."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    before = signal.getsignal(signal.SIGINT)

    def ask(*_: object) -> None:
        stopped.set()
        signal.signal(signal.SIGINT, before)
        say("Stopping after this batch; what is judged is kept.")

    signal.signal(signal.SIGINT, ask)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)
