"""Taking a network elsewhere: safetensors with a model card, TorchScript, ONNX; each verified to give the same logits.

The exporters are torch's own. What they write takes float32 pixels (n, 3, size, size), normalised as the card
says, and gives logits (n, classes) in the card's order.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from engine import files
from engine.data.preprocessing import Preprocessing
from engine.errors import WeightsError
from engine.runs import presets
from engine.runs.folder import RunFolder
from engine.training import checkpoint
from engine.training.models import LoadedModel, load_run_model

FORMATS = ("safetensors", "torchscript", "onnx")
ENDINGS = {"safetensors": ".safetensors", "torchscript": ".torchscript.pt", "onnx": ".onnx"}
TOLERANCE = 1e-3
"""Greatest difference of a logit between the exported network and ours."""


@dataclass(frozen=True)
class Exported:
    """One exported file, its model card, and the greatest difference of a logit to the run's own network."""

    path: Path
    card: Path
    difference: float


def export_run(folder: RunFolder, target: Path, format: str = "safetensors") -> Exported:
    """Write the best checkpoint of a run for use elsewhere.

    Args:
        target: a folder; made if it is not there.
        format: one of `FORMATS`.

    Raises:
        WeightsError: no checkpoint; unknown format; the ONNX packages are not installed; the exported network
            gives other logits (nothing is left behind then).
    """
    if format not in FORMATS:
        raise WeightsError("Unknown export format", found=format, remedy=f"Choose {', '.join(FORMATS)}")
    if format == "onnx":
        require_onnx()
    loaded = load_run_model(folder)
    target = Path(target)
    target.mkdir(parents=True, exist_ok=True)
    path = target / f"{folder.id}{ENDINGS[format]}"
    pixels = _probe_pixels(loaded)
    writers = {"safetensors": _safetensors, "torchscript": _torchscript, "onnx": _onnx}
    run_again: Callable[[], np.ndarray] = writers[format](loaded, folder, path, pixels)
    with torch.inference_mode():
        ours = loaded.model(pixels).numpy()
    difference = float(np.abs(run_again() - ours).max())
    if not difference <= TOLERANCE:
        path.unlink(missing_ok=True)
        raise WeightsError(
            "The exported network gives other logits",
            found=f"a difference of {difference:.3g}",
            remedy="Export as safetensors, and report this architecture",
            kind="export",
        )
    card = target / f"{folder.id}.md"
    files.write_bytes(card, model_card(folder, loaded, path.name, difference).encode())
    return Exported(path, card, difference)


def require_onnx() -> None:
    """ONNX needs packages that nothing else here needs.

    Raises:
        WeightsError: kind `package`.
    """
    absent = [name for name in ("onnx", "onnxscript", "onnxruntime") if not importlib.util.find_spec(name)]
    if absent:
        raise WeightsError(
            "Packages for ONNX are not installed",
            found=f"without {', '.join(absent)}",
            remedy=f"pip install {' '.join(absent)}, or export as torchscript",
            kind="package",
        )


def model_card(folder: RunFolder, loaded: LoadedModel, file: str, difference: float) -> str:
    """What one must know to use the network: input, output, training, scores with their split, limits."""
    config = folder.config()
    recipe = presets.resolve(config)
    best = folder.status().best or {}
    score = f"{best['metric']} {best['value']:.3f} in epoch {best['epoch']}" if best else "not recorded"
    lines = [
        f"# {_plain(folder.name)}",
        "",
        "For research only: no medical device, not validated on patients.",
        "",
        f"- File: `{file}` (logits within {difference:.1g} of the run's own network)",
        f"- Run: `{folder.id}`; architecture `{loaded.architecture.timm_name}` (timm)",
        f"- Input: RGB, {loaded.image_size} x {loaded.image_size} pixels, geometry `{loaded.geometry}`, "
        f"{_prepared_by(loaded.preprocessing)}; values in "
        f"0..1, minus mean {_numbers(loaded.mean)}, divided by {_numbers(loaded.std)}; float32 (n, 3, height, width)",
        f"- Output: logits (n, {len(loaded.classes)}) of {', '.join(loaded.classes)}; softmax gives probabilities",
        f"- Evaluation: {'mean of the logits of four flips' if loaded.tta else 'one view'}"
        + (", mean over tiles" if loaded.geometry == "tiles" else ""),
        f"- Training: recipe `{recipe.name}`, {recipe.epochs} epochs, batch {recipe.batch_size}, seed "
        f"{recipe.seed}, mode {recipe.mode}; first weights {_plain(Path(config.model.pretrained).name)}",
        f"- Split: protocol `{config.data.protocol}`, fold {config.data.fold}; "
        f"{_plain(str(folder.audit().get('verdict', '')))}",
        f"- Best on validation (it picked the checkpoint): {score}",
        "- Data: BreakHis or the data set named in the run; its licence holds for it (BreakHis: CC BY 4.0)",
        "",
    ]
    return "\n".join(lines)


def _prepared_by(preprocessing: Preprocessing) -> str:
    """Resize and stain in words; the numbers of the stain reference are in the weights' header."""
    words = [] if preprocessing.geometry == "tiles" else [f"resized `{preprocessing.interpolation}`"]
    if preprocessing.stain:
        reference = preprocessing.stain.reference
        words.append(f"stain normalised before (`{reference.method}`, after {_plain(reference.image_id)})")
    return ", ".join(words) or "native resolution"


def _safetensors(loaded: LoadedModel, folder: RunFolder, path: Path, pixels: torch.Tensor):
    checkpoint.save_weights(path, loaded.model.state_dict(), loaded.facts())

    def again() -> np.ndarray:
        fresh = load_run_model(folder).model
        fresh.load_state_dict(checkpoint.load_weights(path)[0])
        with torch.inference_mode():
            return fresh(pixels).numpy()

    return again


def _torchscript(loaded: LoadedModel, folder: RunFolder, path: Path, pixels: torch.Tensor):
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # torch announces the end of TorchScript with every call
        traced = torch.jit.trace(loaded.model, pixels[:1], check_trace=False)
        torch.jit.save(traced, str(path))

    def again() -> np.ndarray:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            return torch.jit.load(str(path))(pixels).numpy()

    return again


def _onnx(loaded: LoadedModel, folder: RunFolder, path: Path, pixels: torch.Tensor):
    torch.onnx.export(
        loaded.model,
        (pixels,),
        str(path),
        input_names=["pixels"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("n")},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )

    def again() -> np.ndarray:
        runtime = importlib.import_module("onnxruntime")
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return session.run(None, {"pixels": pixels.numpy()})[0]

    return again


def _probe_pixels(loaded: LoadedModel) -> torch.Tensor:
    generator = np.random.default_rng(0)
    size = loaded.image_size
    images = generator.integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    return loaded.normalise(torch.from_numpy(images)).contiguous()


def _numbers(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"


def _plain(text: str) -> str:
    """Text of the user's own, without what Markdown or HTML would read."""
    return "".join(letter if letter.isalnum() or letter in " .,:;()%+-_/" else " " for letter in text).strip()
