"""Commands about single images: predict and explain."""

from __future__ import annotations

import argparse
from pathlib import Path

from engine.commands import flags, output
from engine.commands.flags import Adder


def register(add: Adder) -> None:
    """Declare these commands."""
    command = add(
        "predict", _predict, "Predict images with a trained run or an ensemble.", runs=True, as_json=True
    )
    command.add_argument("id", metavar="ID")
    command.add_argument(
        "images", nargs="+", type=Path, metavar="IMAGE", help="image files, or folders of them"
    )
    command.add_argument(
        "--out", type=Path, metavar="CSV", help="write the predictions here instead of stdout"
    )
    command.add_argument(
        "--cases", type=Path, metavar="CSV", help="columns image and case (or label): who the images are of"
    )
    command.add_argument(
        "--report", type=Path, metavar="HTML", help="also write a self-contained report of the predictions"
    )
    command.add_argument(
        "--refer-below", "--refer_below", type=float, default=0.65, metavar="P",
        help="refer images whose class has less probability to a person",
    )  # fmt: skip
    command.add_argument(
        "--agreement", type=float, default=1.0, metavar="SHARE",
        help="refer images on which fewer of an ensemble's members agree",
    )  # fmt: skip
    command.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:<index>")

    command = add(
        "explain",
        _explain,
        "Draw what a run looked at, over the image, at native pixels.",
        runs=True,
        as_json=True,
    )
    command.add_argument("id", metavar="ID")
    command.add_argument("image", type=Path, metavar="IMAGE", help="an image file, or a folder of them")
    command.add_argument(
        "--method",
        default="gradcam",
        help="gradcam, hirescam, gradcam++, layercam, eigengradcam, scorecam, ablationcam, randomcam",
    )
    command.add_argument("--target", default="malignant", help="a class (its logit), margin, or predicted")
    command.add_argument(
        "--layer", metavar="MODULE", help="dotted name of the layer; the architecture's own unless given"
    )
    command.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="PNG",
        help="overlay to write; for a folder of images, a folder",
    )
    command.add_argument(
        "--raw",
        type=Path,
        metavar="NPY",
        help="also write the signed map on the layer's grid, float32; for a folder any name: one beside each overlay",
    )
    command.add_argument(
        "--geojson",
        type=Path,
        metavar="FILE",
        help="also write the outline for QuPath; for a folder as --raw",
    )
    command.add_argument(
        "--page", type=Path, metavar="FILE", help="also a figure for a paper: .pdf, .svg or .png"
    )
    command.add_argument(
        "--opacity", type=float, default=0.7, help="of the colours where the evidence is greatest: 0 to 1"
    )
    command.add_argument(
        "--even", action="store_true", help="the same opacity everywhere, also where there is no evidence"
    )
    command.add_argument("--colours", default="inferno", help="inferno, viridis, magma, cividis or jet")
    command.add_argument("--contour", type=float, metavar="SHARE", help="outline of the hottest share: 0.15")


def _predict(given: argparse.Namespace) -> int:
    from engine.predict import command

    folder = flags.locate(given)
    judged, report = command.predict(
        folder,
        given.images,
        cases=given.cases,
        rule=command.Rule(given.refer_below, given.agreement),
        out=given.out,
        report=given.report,
        device=given.device,
        progress=output.progress("Predicting"),
        say=output.say,
    )
    record = {"id": given.id, **report}
    if given.out:
        text = "\n".join([f"{len(judged.table)} images predicted: {given.out}", *report["said"]])
    else:
        for line in report["said"]:
            output.say(line)
        text = judged.table.to_csv(index=False).rstrip()
    output.answer(given, record, text)
    return 130 if judged.stopped else 0


def _explain(given: argparse.Namespace) -> int:
    from engine.explain import export
    from engine.runs.results import image_files

    folder = flags.locate(given)
    style = export.Style(given.opacity, given.colours, given.contour, given.even)
    asked = {"method": given.method, "target": given.target, "layer": given.layer or ""}
    if not given.image.is_dir():
        record = export.explain_image(
            folder,
            given.image,
            given.out,
            raw=given.raw,
            outline=given.geojson,
            page=given.page,
            style=style,
            **asked,
        )
        said = (
            f"{record['image']}: {record['predicted']} ({record['probability']:.3f}), overlay in {given.out}"
        )
        output.answer(given, record, said)
        return 0
    table = export.explain_folder(
        folder,
        image_files([given.image]),
        given.out,
        raw=given.raw is not None,
        outline=given.geojson is not None,
        page=given.page,
        style=style,
        progress=output.progress("Explaining"),
        **asked,
    )
    failed = int((table["error"] != "").sum())
    said = f"{len(table) - failed} of {len(table)} images explained, overlays and explanations.csv in {given.out}"
    record = {"id": given.id, "out": str(given.out), "images": table.to_dict(orient="records")}
    output.answer(given, record, said + (f"; {failed} could not be, see its column error" if failed else ""))
    return 0
