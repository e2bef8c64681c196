"""What can be asked of an explanation: methods, layers and targets as records. Needs no torch.

The page's selectors, the command line's choices and the tests read these tables.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from engine.errors import ExplainError
from engine.runs.catalog import Architecture

MARGIN, PREDICTED = "margin", "predicted"
DEFAULT_METHOD = "gradcam"
DEFAULT_TARGET = "malignant"


@dataclass(frozen=True)
class Method:
    """One way to make a map.

    Attributes:
        name: what `--method` takes.
        label: for people.
        help: what it shows, one or two sentences.
        cost: how long it takes beside a prediction.
        passes: forward passes per image beyond the first; `channels` = one per channel of the layer.
        source: the paper.
    """

    name: str
    label: str
    help: str
    cost: str
    passes: str
    source: str


METHODS: tuple[Method, ...] = (
    Method(
        "gradcam",
        "Grad-CAM",
        "Channels of the layer weighted by their mean gradient. At an EfficientNet's last layer the signed map sums exactly to the logit without its bias.",
        "as fast as a prediction",
        "",
        "Selvaraju et al., ICCV 2017",
    ),
    Method(
        "hirescam",
        "HiResCAM",
        "Gradient times activation at every position: shows only places that raised the score. Equal to Grad-CAM at the last layer, more faithful at earlier ones.",
        "as fast as a prediction",
        "",
        "Draelos and Carin, 2020, arXiv:2011.08891",
    ),
    Method(
        "gradcam++",
        "Grad-CAM++",
        "Weights from higher powers of positive gradients: covers several separate regions more evenly.",
        "as fast as a prediction",
        "",
        "Chattopadhay et al., WACV 2018",
    ),
    Method(
        "layercam",
        "LayerCAM",
        "Positive gradient times activation at every position: made for earlier layers, where it shows finer detail.",
        "as fast as a prediction",
        "",
        "Jiang et al., IEEE TIP 30:5875, 2021",
    ),
    Method(
        "eigengradcam",
        "EigenGradCAM",
        "First principal component of gradient times activation: smooth, but its zero is the map's own mean.",
        "about 0.1 s more per image",
        "",
        "Muhammad and Yeasin, 2020, arXiv:2008.00299 (Eigen-CAM)",
    ),
    Method(
        "scorecam",
        "Score-CAM",
        "No gradients: each channel masks the image, and the score of the masked image is its weight.",
        "a prediction per channel: half a minute per image on two cores",
        "channels",
        "Wang et al., CVPR Workshops 2020",
    ),
    Method(
        "ablationcam",
        "Ablation-CAM",
        "No gradients: each channel is set to zero, and the loss of score is its weight.",
        "a few predictions per image",
        "channels",
        "Desai and Ramaswamy, WACV 2020",
    ),
    Method(
        "randomcam",
        "Random weights (control)",
        "Channels weighted at random: what a map is worth that knows nothing of the decision. A method that does not beat it explains nothing.",
        "as fast as a prediction",
        "",
        "the control of pytorch-grad-cam",
    ),
)
BY_NAME = {method.name: method for method in METHODS}
_ALIASES = {"gradcamplusplus": "gradcam++", "gradcampp": "gradcam++", "eigencam": "eigengradcam"}


@dataclass(frozen=True)
class Layer:
    """A layer that an architecture offers for explanations: dotted module name, and what it is."""

    name: str
    label: str


def find_method(name: str) -> Method:
    """The record of a method, by its name in any spelling (`Grad-CAM`, `grad_cam`, `GradCAMPlusPlus`).

    Raises:
        ExplainError: there is no such method.
    """
    key = "".join(letter for letter in str(name).lower() if letter.isalnum() or letter == "+")
    found = BY_NAME.get(_ALIASES.get(key, key))
    if found is None:
        raise ExplainError(
            "There is no such method", found=str(name), remedy=f"Choose one of {', '.join(BY_NAME)}"
        )
    return found


def layers(architecture: Architecture) -> tuple[Layer, ...]:
    """The layers to offer for an architecture, its default first, then from late (coarse) to early (fine)."""
    default = Layer(architecture.cam_layer, f"{architecture.cam_layer} (default, just before pooling)")
    return (default, *(Layer(name, label) for name, label in _earlier(architecture)))


def _earlier(architecture: Architecture) -> list[tuple[str, str]]:
    name = architecture.name
    if "efficientnet" in name:
        count = 6 if "v2" in name else 7
        return [(f"blocks.{k}", f"blocks.{k} (stage {k + 1} of {count})") for k in reversed(range(1, count))]
    if name.startswith("resnet"):
        return [(f"layer{k}", f"layer{k} (stage {k} of 4)") for k in (3, 2)]
    if name.startswith("convnext"):
        return [(f"stages.{k}", f"stages.{k} (stage {k + 1} of 4)") for k in (2, 1)]
    if name.startswith("swin"):
        return [(f"layers.{k}", f"layers.{k} (stage {k + 1} of 4)") for k in (2, 1)]
    if name.startswith("vit"):
        return [(f"blocks.{k}.norm1", f"blocks.{k}.norm1 (block {k + 1} of 12)") for k in (8, 5)]
    return []


def targets(classes: tuple[str, ...]) -> tuple[str, ...]:
    """What can be explained: each class's logit, the margin (two classes), the predicted class."""
    positive_first = tuple(reversed(classes)) if len(classes) == 2 else classes
    return (*positive_first, *((MARGIN,) if len(classes) == 2 else ()), PREDICTED)


def check_target(target: str | int, classes: tuple[str, ...]) -> str:
    """The target by name; an index becomes its class.

    Checked before any model runs: pytorch-grad-cam's context manager swallows an IndexError.

    Raises:
        ExplainError: an index out of range, an unknown name, or a margin of other than two classes.
    """
    text = str(target).strip()
    if text.lstrip("-").isdigit():
        index = int(text)
        if not 0 <= index < len(classes):
            raise ExplainError(
                "This class index is out of range",
                found=f"{index}; the model has {len(classes)} classes ({', '.join(classes)})",
                remedy=f"Give 0 to {len(classes) - 1}, or the name of a class",
            )
        return classes[index]
    by_lower = {name.lower(): name for name in classes}
    if text.lower() in by_lower:
        return by_lower[text.lower()]
    if text.lower() == PREDICTED or (text.lower() == MARGIN and len(classes) == 2):
        return text.lower()
    near = difflib.get_close_matches(text, targets(classes), n=1)
    raise ExplainError(
        "The margin needs two classes"
        if text.lower() == MARGIN
        else "This target is not a class of the model",
        found=f"{len(classes)} classes" if text.lower() == MARGIN else text,
        remedy=f"Did you mean {near[0]}?" if near else f"Choose one of {', '.join(targets(classes))}",
    )
