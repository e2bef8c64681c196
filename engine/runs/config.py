"""What a run is made of: frozen dataclasses, one help text per field.

The help text of a field feeds `--help`, the tooltip in the launch form and the model card. A field's
`flag` is its command-line name; `choices` names the table its values come from. Checks that need the data
set or a GPU happen at launch (`engine.runs.launch.problems`); what can be told from the values alone
is told here, all problems at once.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import ConfigError
from engine.runs import catalog

SCHEMA = 1
KINDS = ("train", "ensemble", "import", "pooled", "fusion", "soup", "tta")
EXECUTED = ("train", "fusion", "soup", "tta")  # made by a worker; the others are complete at once
NETWORKS = ("train", "soup")  # weights of their own that see images
GEOMETRIES = ("square", "letterbox", "tiles")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
MODES = ("exact", "fast")
STAINS = ("none", "macenko", "reinhard")
AUGMENTATIONS = ("none", "light", "study", "strong")
PROTOCOLS = ("case", "holdout", "official-cleaned", "official", "image", "image-80-10-10", "csv")
RECIPES = ("study-as-run", "study-as-described", "modern", "quick")
TASKS = ("malignancy", "subtype")


def _option(default: Any, help_text: str, **facts: Any) -> Any:
    """A field with its facts: label, flag, choices, low, high, unset (left to the recipe), advanced."""
    return field(default=default, metadata={"help": help_text, **facts})


def _recipe_number(what: str, label: str, flag: str, high: float) -> Any:
    """An advanced number that the recipe decides unless it is given; 0 turns it off."""
    return _option(
        -1.0,
        f"{what}; 0 = none. Not given = the recipe's.",
        label=label,
        flag=flag,
        low=0.0,
        high=high,
        unset=-1.0,
        advanced=True,
    )


@dataclass(frozen=True)
class DataConfig:
    """Which images, and who is trained on, chosen on and tested on."""

    root: str = _option(
        "",
        "Folder of the data set: any copy of BreakHis, one folder per class, or a CSV manifest.",
        label="Data set",
        flag="--data",
    )
    magnifications: tuple[str, ...] = _option(
        (),
        "Train and test on these magnifications only; all of them unless given.",
        label="Magnifications",
        flag="--magnification",
    )
    task: str = _option(
        "malignancy",
        "malignancy: benign or malignant. subtype: the eight tumour types.",
        label="Task",
        flag="--task",
        choices=TASKS,
        advanced=True,
    )
    keep_ambiguous: bool = _option(
        False,
        "For the task subtype: keep case 14-13412, which is filed under both DC and LC with nearly the same images. Without this it is left out.",
        label="Keep the case with two subtypes",
        flag="--keep-ambiguous",
        advanced=True,
    )
    protocol: str = _option(
        "case",
        "How images are divided. case: five folds, no patient on two sides (the honest default). image: the study's random draw, which leaks patients. official: the five published folds.",
        label="Split protocol",
        flag="--protocol",
        choices=PROTOCOLS,
    )
    fold: int = _option(
        0,
        "Which fold is the test part: 0 to 4 for case, 1 to 5 for the official folds.",
        label="Fold",
        flag="--fold",
        low=0,
        high=5,
    )
    split_seed: int = _option(
        0,
        "Seed of the split, apart from the seed of the training.",
        label="Split seed",
        flag="--split-seed",
        low=0,
        high=2**31 - 1,
        advanced=True,
    )
    split_csv: str = _option(
        "",
        "A manifest CSV with image_id and split, for the protocol csv.",
        label="Split from CSV",
        flag="--split-csv",
        advanced=True,
    )


@dataclass(frozen=True)
class ModelConfig:
    """Which network, from which weights, seeing what of the image."""

    name: str = _option(
        "tf_efficientnet_lite0", "Architecture, by its name in the catalogue.", label="Model", flag="--model"
    )
    pretrained: str = _option(
        "hub",
        "Where the first weights come from. hub: ImageNet weights fetched by timm. offline: ImageNet weights from an installed package (lite0 to lite2). none: random. Or the path of a .safetensors file.",
        label="First weights",
        flag="--pretrained",
    )
    image_size: int = _option(
        0,
        "Side of the square that the network sees, in pixels; 0 = the architecture's own, of tiles at least 256.",
        label="Image size",
        flag="--image-size",
        low=0,
        high=1024,
    )
    geometry: str = _option(
        "",
        "square: the whole image squeezed (the study). letterbox: the whole image, proportions kept. tiles: crops at native resolution, logits averaged over a grid. Empty = what the recipe was made for.",
        label="Input geometry",
        flag="--geometry",
        choices=("", *GEOMETRIES),
    )
    stain: str = _option(
        "none",
        "Recolour every image after one training image before anything else, in training, evaluation, prediction and explanation alike. macenko: strengths of hematoxylin and eosin. reinhard: mean and spread of colour. An image that cannot be normalised keeps its colours and is counted.",
        label="Stain normalisation",
        flag="--stain",
        choices=STAINS,
        advanced=True,
    )
    dropout: float = _option(
        0.3,
        "Dropout before the last layer.",
        label="Dropout",
        flag="--dropout",
        low=0.0,
        high=0.9,
        advanced=True,
    )


@dataclass(frozen=True)
class TrainingConfig:
    """How the network is fitted. A field's `unset` value (0, -1 or empty) leaves it to the recipe."""

    recipe: str = _option(
        "study-as-run",
        "Preset for everything below it; each value given beside it wins.",
        label="Recipe",
        flag="--recipe",
        choices=RECIPES,
    )
    epochs: int = _option(
        0,
        "Passes over the training images; 0 = the recipe's.",
        label="Epochs",
        flag="--epochs",
        low=0,
        high=1000,
    )
    batch_size: int = _option(
        0, "Images per step; 0 = the recipe's.", label="Batch size", flag="--batch-size", low=0, high=1024
    )
    lr: float = _option(
        0.0,
        "Learning rate of the backbone; the head keeps the recipe's ratio to it; 0 = the recipe's.",
        label="Learning rate",
        flag="--lr",
        low=0.0,
        high=1.0,
    )
    augmentation: str = _option(
        "",
        "Augmentation recipe; empty = the training recipe's own.",
        label="Augmentation",
        flag="--augmentation",
        choices=("", *AUGMENTATIONS),
        advanced=True,
    )
    accumulate: int = _option(
        1,
        "Steps whose gradients are added before one update: half the batch and twice this is the same training in half the memory.",
        label="Gradient accumulation",
        flag="--accumulate",
        low=1,
        high=256,
        advanced=True,
    )
    patience: int = _option(
        0,
        "Stop when validation has not improved for this many epochs; 0 = never.",
        label="Early stopping",
        flag="--patience",
        low=0,
        high=1000,
        advanced=True,
    )
    precision: str = _option(
        "auto",
        "Number format of the forward pass; auto = bf16 where the device has it in hardware, otherwise fp32.",
        label="Precision",
        flag="--precision",
        choices=PRECISIONS,
        advanced=True,
    )
    device: str = _option("auto", "auto, cpu, cuda or cuda:<index>.", label="Device", flag="--device")
    workers: int = _option(
        -1,
        "Loader processes; -1 = chosen by the engine, 0 = none.",
        label="Loader processes",
        flag="--workers",
        low=-1,
        high=64,
        advanced=True,
    )
    seed: int = _option(
        0,
        "Seed of first weights, order and augmentation.",
        label="Seed",
        flag="--seed",
        low=0,
        high=2**31 - 1,
    )
    mode: str = _option(
        "exact",
        "exact: a resumed run ends bit-identical to an uninterrupted one (same machine). fast: no such promise, said on every result.",
        label="Reproducibility",
        flag="--mode",
        choices=MODES,
        advanced=True,
    )
    sampling: str = _option(
        "",
        "shuffle: every image once per epoch. balanced: every class x magnification drawn equally often. Empty = the recipe's.",
        label="Sampling",
        flag="--sampling",
        choices=("", "shuffle", "balanced"),
        advanced=True,
    )
    loss: str = _option(
        "",
        "cross_entropy, or focal (gamma 2), which weighs images by how wrong they are. Empty = the recipe's.",
        label="Loss",
        flag="--loss",
        choices=("", "cross_entropy", "focal"),
        advanced=True,
    )
    class_weights: bool = _option(
        False,
        "Weigh every image by the inverse frequency of its class in the training part.",
        label="Class weights",
        flag="--class-weights",
        advanced=True,
    )
    label_smoothing: float = _recipe_number(
        "Share of the target spread over all classes", "Label smoothing", "--label-smoothing", 0.9
    )
    mixup: float = _recipe_number(
        "Alpha of mixup: two images blended; not on cached features", "Mixup", "--mixup", 10.0
    )
    cutmix: float = _recipe_number(
        "Alpha of cutmix: a window of another image pasted in; not on cached features",
        "Cutmix",
        "--cutmix",
        10.0,
    )
    ema: float = _recipe_number(
        "Decay of the moving average of the weights, which is then what is validated and kept",
        "Weight average",
        "--ema",
        0.99999,
    )
    clip: float = _recipe_number("Greatest norm of the gradient", "Gradient clipping", "--clip", 1000.0)
    weight_decay: float = _recipe_number("Weight decay", "Weight decay", "--weight-decay", 1.0)
    tta: str = _option(
        "",
        "on: the logits of an image's four flips are averaged at evaluation, at four times the cost. Empty = the recipe's.",
        label="Flips at evaluation",
        flag="--tta",
        choices=("", "on", "off"),
        advanced=True,
    )
    compile: bool = _option(
        False,
        "Compile the network with torch.compile; slower to start, falls back when it fails.",
        label="Compile",
        flag="--compile",
        advanced=True,
    )


@dataclass(frozen=True)
class RunConfig:
    """Everything a run was launched with; `config.json` holds it as nested objects.

    `details` belongs to the kind: an ensemble's members, method and weights; an import's source file.
    """

    kind: str = "train"
    name: str = _option(
        "", "A label for people; names may repeat and change, the id does not.", label="Name", flag="--name"
    )
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    classes: tuple[str, ...] = ("benign", "malignant")
    experiment: str = _option(
        "",
        "Runs launched together carry the same experiment.",
        label="Experiment",
        flag="--experiment",
        advanced=True,
    )
    parent: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    def to_record(self) -> dict[str, Any]:
        """Plain JSON values, nested as the dataclasses are."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> RunConfig:
        """The configuration a `config.json` holds; unknown keys (a newer schema) are left out.

        Raises:
            ConfigError: the record is of a newer schema, or a value is of the wrong type.
        """
        if int(record.get("schema", SCHEMA)) > SCHEMA:
            raise ConfigError(
                "This run was written by a newer version",
                found=f"schema {record['schema']}, known up to {SCHEMA}",
                remedy="Update this installation",
            )
        try:
            return _build(cls, record)
        except (TypeError, ValueError, AttributeError) as error:
            raise ConfigError(
                "The configuration cannot be read", found=str(error), remedy="Restore config.json"
            ) from error

    def changed(self, **values: Any) -> RunConfig:
        """A copy with fields replaced; `data__fold=2` reaches into a group."""
        groups: dict[str, dict[str, Any]] = {}
        plain: dict[str, Any] = {}
        for key, value in values.items():
            group, _, name = key.partition("__")
            if name:
                groups.setdefault(group, {})[name] = value
            else:
                plain[group] = value
        replaced = {
            group: dataclasses.replace(getattr(self, group), **fields) for group, fields in groups.items()
        }
        return dataclasses.replace(self, **replaced, **plain)


@functools.cache
def _fields(cls: type) -> tuple[dataclasses.Field, ...]:
    """The fields of a class, looked up once: 4,000 times for a list of 1,000 runs."""
    return dataclasses.fields(cls)


def _build(cls: type, record: dict[str, Any]) -> Any:
    values: dict[str, Any] = {}
    nested = {"data": DataConfig, "model": ModelConfig, "training": TrainingConfig}
    for item in _fields(cls):
        if item.name not in record:
            continue
        value = record[item.name]
        if item.name in nested and cls is RunConfig:
            value = _build(nested[item.name], value)
        elif isinstance(value, list):
            value = tuple(value)
        values[item.name] = value
    return cls(**values)


FAST = (
    "Fast mode: not exactly resumable. Had it been interrupted, or trained again with the same seed, its bits would "
    "differ."
)


def reproducibility(config: RunConfig) -> str:
    """What must be said of every result of a run in fast mode (or with a member in it); empty in exact mode."""
    return FAST if config.training.mode == "fast" else ""


def mode_of(config: RunConfig) -> str:
    """`exact`, `fast` or, of another tool's predictions, `unknown`."""
    return "unknown" if config.kind == "import" else config.training.mode


def options(*groups: type) -> Iterator[tuple[type, dataclasses.Field]]:
    """Every field that has a flag, group by group: what `--help` and the launch form are made from."""
    for group in groups or (DataConfig, ModelConfig, TrainingConfig, RunConfig):
        for item in dataclasses.fields(group):
            if "flag" in item.metadata:
                yield group, item


def help_of(group: type, name: str) -> str:
    """The help text of one field."""
    return next(item.metadata["help"] for item in dataclasses.fields(group) if item.name == name)


def value_problems(config: RunConfig) -> list[ConfigError]:
    """Everything wrong with a training configuration that its values alone can tell."""
    found: list[ConfigError] = []
    for part in (config.data, config.model, config.training):
        for item in dataclasses.fields(part):
            found.extend(_field_problems(item, getattr(part, item.name)))
    if not config.data.root:
        found.append(ConfigError("No data set is chosen", remedy="Give the folder of the data set"))
    found.extend(catalog.model_problems(config.model.name, config.model.pretrained))
    size = config.model.image_size
    if 0 < size < 32:
        found.append(
            ConfigError(
                "The image size is too small",
                found=f"{size} pixels",
                remedy="Give at least 32, or 0 for the architecture's own",
            )
        )
    return found


def _field_problems(item: dataclasses.Field, value: Any) -> Iterator[ConfigError]:
    facts = item.metadata
    name = facts.get("label", item.name)
    choices = facts.get("choices")
    if choices and value not in choices:
        yield ConfigError(
            f"{name} is not one of the choices",
            found=str(value),
            remedy=f"Choose {', '.join(filter(None, choices))}",
        )
    if "unset" in facts and value == facts["unset"]:
        return
    low, high = facts.get("low"), facts.get("high")
    if low is not None and high is not None and isinstance(value, int | float) and not low <= value <= high:
        yield ConfigError(f"{name} is out of range", found=str(value), remedy=f"Give {low} to {high}")


def read_config(path: Path) -> RunConfig:
    """The configuration in a JSON file.

    Raises:
        ConfigError: the file cannot be read or is no configuration.
    """
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{Path(path).name} cannot be read", found=str(error), remedy="Give a config.json of a run"
        ) from error
    if not isinstance(record, dict):
        raise ConfigError(
            f"{Path(path).name} is not a configuration",
            found=type(record).__name__,
            remedy="Give a config.json of a run",
        )
    return RunConfig.from_record(record)
