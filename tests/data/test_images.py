"""One decode function: every odd file gives the right pixels or a sentence, never a wrong pixel."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from engine.data.images import cut_tiles, decode, encode_png, read_header, resize, thumbnail
from engine.errors import DataError


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (46, 70, 3), dtype=np.uint8)


def saved(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def kind_of(data: bytes) -> str:
    with pytest.raises(DataError) as error:
        decode(data)
    assert error.value.message
    assert error.value.remedy
    return error.value.kind


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def test_png_pixels_come_back_as_they_were(picture, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encode_png(picture))
    assert np.array_equal(decode(path), picture)
    assert decode(path).dtype == np.uint8


def test_sixteen_bits_are_scaled_not_clipped():
    values = np.linspace(0, 65535, 256 * 4).astype(np.uint16).reshape(4, 256)
    pixels = decode(saved(Image.fromarray(values)))
    assert np.array_equal(pixels[..., 0], (values >> 8).astype(np.uint8))
    assert np.array_equal(pixels[..., 0], pixels[..., 2])


def test_sixteen_bit_colour_is_scaled_alike():
    values = np.random.default_rng(1).integers(0, 65536, (5, 6, 3)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    header = struct.pack(">IIBBBBB", 6, 5, 16, 2, 0, 0, 0)
    data = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    assert np.array_equal(decode(data), (values >> 8).astype(np.uint8))


def test_palette_and_grey_become_rgb(picture):
    palette = Image.fromarray(picture).quantize(16)
    assert np.array_equal(decode(saved(palette)), np.array(palette.convert("RGB")))
    grey = Image.fromarray(picture).convert("L")
    assert np.array_equal(decode(saved(grey))[..., 1], np.array(grey))
    one_bit = decode(saved(Image.fromarray(picture).convert("1")))
    assert set(np.unique(one_bit)) == {0, 255}


def test_transparency_lies_on_white(picture):
    alpha = np.zeros((46, 70), np.uint8)
    alpha[:, 35:] = 255
    pixels = decode(saved(Image.fromarray(np.dstack([picture, alpha]))))
    assert (pixels[:, :35] == 255).all()
    assert np.array_equal(pixels[:, 35:], picture[:, 35:])
    palette = Image.fromarray(picture).quantize(8)
    see_through = decode(saved(palette, transparency=0))
    assert (see_through[np.array(palette) == 0] == 255).all()


def test_cmyk_jpeg_is_decoded_by_its_bytes():
    white = decode(saved(Image.new("CMYK", (40, 30), (0, 0, 0, 0)), "JPEG"))
    assert white.shape == (30, 40, 3)
    assert white.min() > 250


def test_exif_orientation_is_ignored(picture):
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(saved(Image.fromarray(picture), "JPEG", exif=exif)).shape == (46, 70, 3)


def test_a_bomb_is_refused_before_decoding(tmp_path):
    data = saved(Image.new("1", (14000, 14000)))
    assert kind_of(data) == "too_large"
    path = tmp_path / "bomb.png"
    path.write_bytes(data)
    with pytest.raises(DataError) as error:
        read_header(path)
    assert error.value.kind == "too_large"
    jpeg = bytearray(saved(Image.new("L", (16, 16)), "JPEG"))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", 60000, 60000)
    assert kind_of(bytes(jpeg)) == "too_large"


def test_broken_files_are_told_apart(picture):
    data = encode_png(picture)
    assert kind_of(b"") == "empty"
    assert kind_of(data[:-30]) == "truncated"
    assert kind_of(data[:20]) == "truncated"
    assert kind_of(b"GIF89a....................") == "format"
    assert kind_of(saved(Image.fromarray(picture), "BMP")) == "format"
    jpeg = saved(Image.fromarray(picture), "JPEG")
    assert kind_of(jpeg[: len(jpeg) // 2]) == "truncated"
    assert kind_of(saved(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF")) == "mode"


def test_a_flipped_bit_is_never_a_wrong_pixel(picture):
    data = encode_png(picture)
    rng = np.random.default_rng(3)
    for position in rng.choice(len(data), 60, replace=False):
        damaged = bytearray(data)
        damaged[position] ^= 1 << int(rng.integers(8))
        try:
            pixels = decode(bytes(damaged))
        except DataError:
            continue
        assert np.array_equal(pixels, picture)


def test_a_missing_file_and_a_folder_are_sentences(tmp_path):
    for path, kind in ((tmp_path / "no.png", "missing"), (tmp_path, "unreadable")):
        with pytest.raises(DataError) as error:
            decode(path)
        assert error.value.kind == kind


def test_headers_agree_with_pixels(picture, tmp_path):
    for name, data in {
        "a.png": encode_png(picture),
        "b.png": saved(Image.fromarray(picture), "JPEG"),
        "c.tif": saved(Image.fromarray(picture), "TIFF"),
        "d.png": encode_png(picture) + b"padding after the end",
    }.items():
        (tmp_path / name).write_bytes(data)
        header = read_header(tmp_path / name)
        assert (header.height, header.width) == decode(tmp_path / name).shape[:2]


def test_resize_keeps_what_it_promises(picture):
    assert resize(picture, 32).shape == (32, 32, 3)
    assert np.array_equal(resize(picture, 32, "tiles"), picture)
    box = resize(picture, 70, "letterbox")
    assert box.shape == (70, 70, 3)
    assert (box[:12] == 255).all()
    assert np.array_equal(box[12:58], picture)
    with pytest.raises(DataError):
        resize(picture, 32, "round")


def test_tiles_cover_the_image():
    image = np.zeros((460, 700, 3), np.uint8)
    tiles = cut_tiles(image, 256)
    assert tiles.shape == (6, 256, 256, 3)
    counted = np.arange(460 * 700, dtype=np.int64).reshape(460, 700)
    marked = np.repeat((counted % 251).astype(np.uint8)[..., None], 3, 2)
    assert np.array_equal(cut_tiles(marked, 256)[5], marked[204:, 444:])
    assert cut_tiles(image[:100, :100], 256).shape == (1, 256, 256, 3)


def test_thumbnails_keep_their_proportions(picture):
    assert thumbnail(encode_png(picture), 35).shape == (23, 35, 3)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"\n<html><body>not found", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer"),
        (b"hello, this is no picture", 'text that begins with "hello, this is no pictur"'),
        (bytes(range(128, 200)), "bytes of no format"),
    ],
)
def test_what_is_no_image_is_named_in_words(data, words):
    with pytest.raises(DataError) as caught:
        decode(data, "slide.png")
    assert words in str(caught.value)
    assert "b'" not in str(caught.value)
