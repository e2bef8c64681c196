"""THE decode function: every pixel that is trained on, predicted, explained or shown comes through `decode`.

PIL does the work, never `cv2.imread` (crashes on odd file names, rotates by EXIF, decodes bombs) and never
`torchvision.io` (crashed on 419 of 600 mutated PNGs). Formats are judged by their bytes, not by their name.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from engine.data.files import printable
from engine.errors import DataError

FORMATS = ("PNG", "JPEG", "TIFF")
MAX_PIXELS = 50_000_000
DECODE_VERSION = 1
"""Raised whenever `decode` or `resize` gives other pixels than before; packed caches are keyed by it."""

GEOMETRIES = {
    "square": "squeezed to a square, as in the source study; the aspect ratio changes",
    "letterbox": "scaled to fit a square, aspect ratio kept, the rest filled with white",
    "tiles": "left at native resolution; models see windows cut from it",
}

INTERPOLATIONS = {
    "area": "by area where the image gets smaller (no aliasing), bilinear otherwise",
    "bilinear": "bilinear whatever the factor, as the source study resized: fine texture aliases",
}

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_CHECKED = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS"}
_WHITE = (255, 255, 255)


@dataclass(frozen=True)
class Header:
    """What an image file says about itself before any pixel is decoded; width and height in pixels.

    `remarks`: what is unusual about it and how `decode` takes it, as (kind, sentence); the image can be used.
    """

    width: int
    height: int
    format: str
    remarks: tuple[tuple[str, str], ...] = ()


def decode(source: Path | bytes, name: str = "") -> np.ndarray:
    """An image file as RGB.

    EXIF orientation, colour profiles and gamma are ignored. 16-bit channels keep their high byte,
    transparency is composited on white, grey, palette and CMYK become RGB, of several frames the first
    counts.

    Args:
        source: a path, or the bytes of a file.
        name: what errors call bytes; a path has its own.

    Returns:
        uint8 array, height x width x 3.

    Raises:
        DataError: kind `missing`, `unreadable`, `empty`, `format`, `too_large`, `truncated`, `damaged`
            or `mode`.
    """
    data, name = _read(source, name)
    if data.startswith(_PNG_SIGNATURE):
        _check_png(data, name)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(*image.size, name)
            image.load()
            pixels = _to_rgb(image, name)
    except DataError:
        raise
    except Image.UnidentifiedImageError as error:
        raise _not_an_image(data, name) from error
    except Image.DecompressionBombError as error:
        raise _too_large(str(error), name) from error
    except Exception as error:  # on damaged bytes the decoders raise anything from KeyError to struct.error
        kind = "truncated" if "truncated" in str(error).lower() else "damaged"
        raise _damaged(name, kind, str(error) or type(error).__name__) from error
    return pixels


def read_header(path: Path) -> Header:
    """Size and format from the first bytes, and whether the end of the file is there (PNG).

    About 30 microseconds per PNG; pixels are not decoded, so damage inside them stays unseen.

    Raises:
        DataError: as `decode`.
    """
    name = printable(path.name)
    try:
        with path.open("rb") as file:
            head = file.read(33)
            if not head:
                raise _empty(name)
            if head.startswith(_PNG_SIGNATURE):
                width, height = _png_size(head, name)
                _check_size(width, height, name)
                if not _png_ends(file):
                    raise _damaged(name, "truncated", "the file ends before the image does")
                return Header(width, height, "PNG", _png_remarks(head, file, path.suffix))
            file.seek(0)
            with Image.open(file, formats=FORMATS) as image:
                _check_size(*image.size, name)
                kind = str(image.format)
                return Header(*image.size, kind, _other_remarks(image, kind, path.suffix))
    except OSError as error:
        if isinstance(error, Image.UnidentifiedImageError):
            raise _not_an_image(head, name) from error
        raise _unreadable(name, error) from error
    except Image.DecompressionBombError as error:
        raise _too_large(str(error), name) from error
    except (SyntaxError, ValueError, KeyError, struct.error) as error:
        raise _damaged(name, "damaged", str(error)) from error


def verify_file(path: Path) -> None:
    """Read a file whole and compare its checksums; a PNG is not decoded (1 ms instead of 10), others are.

    Raises:
        DataError: as `decode`.
    """
    data, name = _read(path)
    if data.startswith(_PNG_SIGNATURE):
        _check_png(data, name)
    else:
        decode(data, name)


def resize(image: np.ndarray, size: int, geometry: str = "square", interpolation: str = "area") -> np.ndarray:
    """An image brought to the size a model takes.

    Args:
        image: uint8, height x width x 3.
        size: the side of the square, pixels; ignored by `tiles`.
        geometry: one of `GEOMETRIES`.
        interpolation: one of `INTERPOLATIONS`.

    Returns:
        uint8, size x size x 3 (`tiles`: the image as it is).
    """
    if interpolation not in INTERPOLATIONS:
        raise DataError(
            f"Unknown interpolation {interpolation}",
            remedy=f"Choose one of {', '.join(INTERPOLATIONS)}",
            kind="interpolation",
        )
    if geometry == "tiles":
        return image
    if geometry == "square":
        return _scale(image, size, size, interpolation)
    if geometry != "letterbox":
        raise DataError(
            f"Unknown geometry {geometry}", remedy=f"Choose one of {', '.join(GEOMETRIES)}", kind="geometry"
        )
    height, width = image.shape[:2]
    factor = size / max(height, width)
    inner = _scale(image, max(1, round(width * factor)), max(1, round(height * factor)), interpolation)
    canvas = np.full((size, size, 3), 255, np.uint8)  # white is what a slide shows where there is no tissue
    top, left = (size - inner.shape[0]) // 2, (size - inner.shape[1]) // 2
    canvas[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    return canvas


def cut_tiles(image: np.ndarray, size: int) -> np.ndarray:
    """The fewest windows of native pixels that cover the image, evenly spaced.

    A 700 x 460 image at size 256 gives six: three columns, two rows. A smaller image is reflected outward.

    Returns:
        uint8, tiles x size x size x 3, row by row.
    """
    height, width = image.shape[:2]
    if height < size or width < size:
        missing = [(0, max(0, size - height)), (0, max(0, size - width)), (0, 0)]
        image = np.pad(image, missing, mode="symmetric")
        height, width = image.shape[:2]
    tops = np.linspace(0, height - size, -(-height // size)).round().astype(int)
    lefts = np.linspace(0, width - size, -(-width // size)).round().astype(int)
    return np.stack([image[top : top + size, left : left + size] for top in tops for left in lefts])


def thumbnail(source: Path | bytes, width: int = 220) -> np.ndarray:
    """A small copy, aspect ratio kept: uint8, about (width * height / width) x width x 3."""
    return shrink(decode(source), width)


def shrink(image: np.ndarray, width: int) -> np.ndarray:
    """An image (uint8, height x width x 3) at this width, aspect ratio kept."""
    return _scale(image, width, max(1, round(image.shape[0] * width / image.shape[1])))


def encode_png(image: np.ndarray) -> bytes:
    """An RGB uint8 array as the bytes of a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def encode_jpeg(image: np.ndarray, width: int) -> bytes:
    """An RGB uint8 array as the bytes of a JPEG, at most `width` pixels wide: to be looked at, not to be judged."""
    picture = Image.fromarray(image)
    if picture.width > width:
        picture = picture.resize((width, max(1, round(picture.height * width / picture.width))))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _scale(image: np.ndarray, width: int, height: int, interpolation: str = "area") -> np.ndarray:
    import cv2

    if image.shape[:2] == (height, width):
        return image
    smaller = width <= image.shape[1] and height <= image.shape[0]
    method = cv2.INTER_AREA if smaller and interpolation == "area" else cv2.INTER_LINEAR
    return cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=method)


def _to_rgb(image: Image.Image, name: str) -> np.ndarray:
    mode = image.mode
    if mode.startswith("I;16"):
        return _sixteen_bit(image)
    if mode in ("I", "F", "LAB", "HSV"):
        raise DataError(
            f"{name} has pixels of mode {mode}, for which no range is agreed",
            found=f"mode {mode}",
            remedy="Save it as an 8-bit or 16-bit RGB PNG",
            kind="mode",
        )
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        canvas = Image.new("RGBA", layer.size, (*_WHITE, 255))
        image = Image.alpha_composite(canvas, layer)
    return np.array(image.convert("RGB"))


def _sixteen_bit(image: Image.Image) -> np.ndarray:
    """Grey of 16 bits by its high byte, as PIL reads 16-bit colour; `convert("RGB")` would clip to white."""
    values = np.asarray(image).astype(np.uint16)
    grey = (values >> 8).astype(np.uint8)
    key = image.info.get("transparency")
    if isinstance(key, int):
        grey = np.where(values == key, np.uint8(255), grey)
    return np.repeat(grey[..., None], 3, axis=2)


def _read(source: Path | bytes, name: str = "") -> tuple[bytes, str]:
    if isinstance(source, bytes | bytearray | memoryview):
        data, name = bytes(source), printable(name) or "The image"
    else:
        path = Path(source)
        name = printable(path.name)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise _unreadable(name, error) from error
    if not data:
        raise _empty(name)
    return data, name


def _check_png(data: bytes, name: str) -> None:
    """Verify size, chunk order and checksums: PIL itself shows wrong pixels where a bit has flipped."""
    _check_size(*_png_size(data, name), name)
    view, position = memoryview(data), 8
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            raise _damaged(name, "truncated", "the file ends before the image does")
        if kind in _PNG_CHECKED:
            stated = struct.unpack_from(">I", data, end - 4)[0]
            if zlib.crc32(view[position + 4 : end - 4]) != stated:
                where = kind.decode("ascii")
                raise _damaged(name, "damaged", f"the checksum of its {where} chunk is wrong")
        if kind == b"IEND":
            return
        position = end
    raise _damaged(name, "truncated", "the file ends before the image does")


def _png_size(head: bytes, name: str) -> tuple[int, int]:
    if len(head) < 33 or head[12:16] != b"IHDR":
        raise _damaged(name, "truncated", "the header is not complete")
    if zlib.crc32(head[12:29]) != struct.unpack_from(">I", head, 29)[0]:
        raise _damaged(name, "damaged", "the checksum of its header is wrong")
    width, height = struct.unpack_from(">II", head, 16)
    return width, height


_REMARKS = {
    "bits": "16 bits per channel; their high byte is used",
    "palette": "Colours from a palette; they are used as RGB",
    "grey": "Grey; used as RGB of three equal channels",
    "alpha": "A transparency channel; the image is laid on white",
    "cmyk": "Printing colours (CMYK); they are used as RGB",
    "orientation": "Its EXIF data ask to turn or mirror it; the pixels are used as they are stored",
}
_ENDINGS = {"PNG": (".png",), "JPEG": (".jpg", ".jpeg"), "TIFF": (".tif", ".tiff")}


def _png_remarks(head: bytes, file: io.BufferedReader, suffix: str) -> tuple[tuple[str, str], ...]:
    """From bit depth and colour type of the header, and the chunks before the pixels."""
    depth, colour = head[24], head[25]
    found = [*_format_remark("PNG", suffix)]
    found += ["bits"] * (depth == 16) + ["palette"] * (colour == 3) + ["grey"] * (colour in (0, 4))
    chunks = dict(_chunks_before_pixels(file))
    found += ["alpha"] * (colour in (4, 6) or b"tRNS" in chunks)
    found += ["orientation"] * _is_turned(chunks.get(b"eXIf", b""))
    return _remarked(found)


def _chunks_before_pixels(file: io.BufferedReader) -> Iterator[tuple[bytes, bytes]]:
    """Kind and (of EXIF data only) content of the chunks that stand before the first pixels."""
    position = 33
    while True:
        file.seek(position)
        start = file.read(8)
        if len(start) < 8:
            return
        length, kind = struct.unpack(">I4s", start)
        if kind in (b"IDAT", b"IEND"):
            return
        yield kind, file.read(length) if kind == b"eXIf" and length < 1 << 16 else b""
        position += 12 + length


def _other_remarks(image: Image.Image, kind: str, suffix: str) -> tuple[tuple[str, str], ...]:
    mode = image.mode
    found = [*_format_remark(kind, suffix)]
    found += ["bits"] * mode.startswith("I;16") + ["palette"] * (mode in ("P", "PA"))
    found += ["grey"] * (mode in ("1", "L", "LA")) + ["cmyk"] * (mode == "CMYK")
    found += ["alpha"] * (mode in ("RGBA", "LA", "PA") or "transparency" in image.info)
    found += ["orientation"] * _is_turned(image.info.get("exif", b"") or image.getexif().tobytes())
    return _remarked(found)


def _format_remark(kind: str, suffix: str) -> Iterator[str]:
    if suffix.lower() not in _ENDINGS.get(kind, ()):
        yield f"format:Named {suffix}, but its bytes are {kind}"


def _is_turned(exif: bytes) -> bool:
    """Whether EXIF data ask for another orientation than that of the stored pixels."""
    if not exif:
        return False
    try:
        data = Image.Exif()
        data.load(exif)
        return data.get(0x0112, 1) not in (0, 1)
    except Exception:  # damaged EXIF data raise anything; the pixels do not depend on them
        return False


def _remarked(kinds: list[str]) -> tuple[tuple[str, str], ...]:
    pairs = [kind.split(":", 1) if ":" in kind else (kind, _REMARKS[kind]) for kind in kinds]
    return tuple((kind, sentence) for kind, sentence in pairs)


def _png_ends(file: io.BufferedReader) -> bool:
    """Whether the closing chunk is there: normally the last 12 bytes, else found chunk by chunk."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - 12))
    if file.read(12)[4:8] == b"IEND":
        return True
    position = 8
    while position + 12 <= size:
        file.seek(position)
        length, kind = struct.unpack(">I4s", file.read(8))
        if kind == b"IEND":
            return True
        position += 12 + length
    return False


def _check_size(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS:
        raise _too_large(f"{width} x {height} pixels", name)
    if width < 1 or height < 1:
        raise _damaged(name, "damaged", f"the header says {width} x {height} pixels")


def _too_large(found: str, name: str) -> DataError:
    return DataError(
        f"{name} is larger than {MAX_PIXELS // 1_000_000} megapixels",
        found=found,
        remedy="Cut it into tiles first; a BreakHis image has 700 x 460 pixels",
        kind="too_large",
    )


def _empty(name: str) -> DataError:
    return DataError(f"{name} is empty", found="0 bytes", remedy="Copy the file again", kind="empty")


def _unreadable(name: str, error: OSError) -> DataError:
    missing = isinstance(error, FileNotFoundError)
    return DataError(
        f"{name} cannot be opened",
        found=error.strerror or str(error),
        remedy="Check that the data folder is still where it was" if missing else "Check its permissions",
        kind="missing" if missing else "unreadable",
    )


# How files begin that people have by mistake where an image should be.
_BEGINNINGS = (
    (b"<!doctype html", "a web page: a download that went wrong"),
    (b"<html", "a web page: a download that went wrong"),
    (b"version https://git-lfs", "a Git LFS pointer: the file itself was not fetched"),
    (b"%PDF", "a PDF"),
    (b"PK\x03\x04", "a ZIP archive or an office document"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"GIF8", "a GIF"),
    (b"BM", "a BMP image"),
    (b"\x00\x00\x00\x0cjP", "a JPEG 2000 image"),
)


def _kind_in_words(data: bytes) -> str:
    """What a file is that is no image: `a web page: ...`, `text that begins with "..."`, `unknown binary data`."""
    start = bytes(data[:64]).lstrip()
    for beginning, words in _BEGINNINGS:
        if start.lower().startswith(beginning.lower()):
            return words
    text = start[:24].decode("ascii", errors="ignore")
    if start and len(text) == len(start[:24]) and text.isprintable():
        return f'text that begins with "{text}"'
    return "bytes of no format that is read here"


def _not_an_image(data: bytes, name: str) -> DataError:
    return DataError(
        f"{name} is not a PNG, JPEG or TIFF image",
        found=_kind_in_words(data),
        remedy="Save it as PNG",
        kind="format",
    )


def _damaged(name: str, kind: str, found: str) -> DataError:
    words = {"truncated": "is cut off", "damaged": "is damaged"}
    return DataError(f"{name} {words[kind]}", found=found, remedy="Copy the file again", kind=kind)
