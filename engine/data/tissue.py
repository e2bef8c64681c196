"""Synthetic H&E tissue: one canvas per slide, photographed at four magnifications.

A canvas holds how much hematoxylin and how much eosin lies at every point; a photograph is a crop of it,
scaled, coloured by the slide's own stain (Beer-Lambert) and blurred by the slide's own optics. What tells
the classes apart is what a pathologist looks at (size, spread and crowding of nuclei, glands or no glands);
what tells slides apart (stain, light, cellularity, fibres) is stronger. So a model that has seen a slide
recognises it, and an image-level split flatters, as in real data.

Lengths are canvas pixels: 0.75 of a pixel at 400X. A typical nucleus has a radius of 7.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import cv2
import numpy as np

WIDTH, HEIGHT = 2800, 1900
IMAGE_SIZE = (350, 230)
FIELD_WIDTH = {"40X": 2625.0, "100X": 1050.0, "200X": 525.0, "400X": 262.5}
"""Width of the field of view on the canvas: what makes the magnifications differ in scale."""

_HEMATOXYLIN = np.array([0.58, 0.74, 0.35], np.float32)
_EOSIN = np.array([0.22, 0.83, 0.44], np.float32)


@dataclass(frozen=True)
class Style:
    """What all photographs of a slide share: stain, light, and how its tissue is built."""

    hematoxylin: np.ndarray
    eosin: np.ndarray
    white: np.ndarray
    hematoxylin_gain: float
    eosin_gain: float
    focus: float
    radius: float
    spread: float
    crowding: float
    cells: float
    fibres: float
    clefts: float
    fat: float


@dataclass
class Canvas:
    """Amounts of hematoxylin and eosin, uint8, HEIGHT x WIDTH each; where fibres point; cells by place."""

    hematoxylin: np.ndarray
    eosin: np.ndarray
    direction: np.ndarray
    nuclei: list[np.ndarray] = field(default_factory=list)
    lesion: np.ndarray = field(default_factory=lambda: np.empty((0, 2)))
    _halves: tuple[np.ndarray, ...] = ()

    def direction_at(self, places: np.ndarray) -> np.ndarray:
        """Where the fibres point at n x 2 places, radians."""
        rows, columns = places[:, 1].astype(int) // 8, places[:, 0].astype(int) // 8
        limit = np.array(self.direction.shape) - 1
        return self.direction[np.minimum(rows, limit[0]), np.minimum(columns, limit[1])]

    def halves(self) -> tuple[np.ndarray, ...]:
        """Both planes at half size, for the low magnifications; made once."""
        if not self._halves:
            size = (WIDTH // 2, HEIGHT // 2)
            planes = (self.hematoxylin, self.eosin)
            self._halves = tuple(cv2.resize(plane, size, interpolation=cv2.INTER_AREA) for plane in planes)
        return self._halves


def draw_style(rng: np.random.Generator, malignant: bool) -> Style:
    """A slide's own look. Stain and light do not depend on the class; nuclei do, with overlap."""

    def vector(base: np.ndarray, amount: float) -> np.ndarray:
        moved = np.clip(base + rng.normal(0, amount, 3), 0.05, 1.2).astype(np.float32)
        return moved / np.linalg.norm(moved)

    tint = rng.normal(0, 7, 3) + rng.normal(0, 7)
    return Style(
        hematoxylin=vector(_HEMATOXYLIN, 0.07),
        eosin=vector(_EOSIN, 0.08),
        white=np.clip(np.array([229, 228, 226]) + tint, 198, 250).astype(np.float32),
        hematoxylin_gain=float(rng.uniform(1.15, 2.0)),
        eosin_gain=float(rng.uniform(0.6, 1.5)),
        focus=float(rng.uniform(0.35, 0.9)),
        radius=float(np.clip(rng.normal(7.9 if malignant else 6.6, 0.95), 5.0, 10.5)),
        spread=float(np.clip(rng.normal(0.22 if malignant else 0.15, 0.05), 0.06, 0.4)),
        crowding=float(np.clip(rng.normal(0.92 if malignant else 1.05, 0.12), 0.75, 1.35)),
        cells=float(rng.uniform(0.5, 1.8)),
        fibres=float(rng.uniform(0.5, 1.3)),
        clefts=float(rng.uniform(0.12, 0.34)),
        fat=float(rng.choice([0.0, 0.0, 0.5, 1.0])),
    )


def grow(subtype: str, style: Style, rng: np.random.Generator) -> Canvas:
    """The tissue of a slide: stroma, fat, and the structures of the subtype."""
    canvas = _stroma(style, rng)
    if style.fat:
        _fat(canvas, style, rng)
    fat_nuclei = len(canvas.nuclei)
    _STRUCTURES[subtype](canvas, style, rng)
    _mimics(canvas, style, rng, subtype not in ("A", "F", "PT", "TA"))
    canvas.lesion = np.concatenate(canvas.nuclei[fat_nuclei:])[:, :2]
    _spindle_cells(canvas, style, rng, 2.2 if subtype == "PT" else 1.0)
    if rng.random() < 0.5:
        _lymphocytes(canvas, style, rng)
    _draw_nuclei(canvas, rng)
    return canvas


def photograph(canvas: Canvas, style: Style, magnification: str, rng: np.random.Generator) -> np.ndarray:
    """One image of the slide: uint8, 230 x 350 x 3, aimed near a random cell of the lesion."""
    width, height = IMAGE_SIZE
    field_width = FIELD_WIDTH[magnification]
    field_height = field_width * height / width
    aim = canvas.lesion[rng.integers(len(canvas.lesion))] + rng.normal(0, field_width / 7, 2)
    if rng.random() < 0.2:  # and often there is nothing but stroma in the picture
        aim = rng.uniform((0, 0), (WIDTH, HEIGHT))
    left = np.clip(aim[0] - field_width / 2, 0, WIDTH - field_width)
    top = np.clip(aim[1] - field_height / 2, 0, HEIGHT - field_height)
    shrunk = 2 if field_width > 2 * width else 1
    planes = canvas.halves() if shrunk == 2 else (canvas.hematoxylin, canvas.eosin)
    edges = [int(edge / shrunk) for edge in (top, top + field_height, left, left + field_width)]
    method = cv2.INTER_AREA if field_width > width else cv2.INTER_CUBIC
    stains = [
        cv2.resize(plane[edges[0] : edges[1], edges[2] : edges[3]], (width, height), interpolation=method)
        for plane in planes
    ]
    pairs = np.asarray(stains[0], np.intp) * 256 + np.asarray(stains[1], np.intp)
    light = np.take(_colours(style).reshape(-1, 3), pairs, axis=0) * np.float32(rng.normal(1.0, 0.02))
    blurred = cv2.GaussianBlur(light, (0, 0), style.focus * rng.uniform(0.85, 1.2))
    grain = 1.6 * rng.standard_normal((height, width, 1), dtype=np.float32)
    return np.clip(blurred * _vignette(width, height) + grain, 0, 255).astype(np.uint8)


def _colours(style: Style) -> np.ndarray:
    """Beer-Lambert for every pair of stain amounts: float32, 256 (hematoxylin) x 256 (eosin) x 3."""
    amount = np.linspace(0, 1, 256, dtype=np.float32)[:, None]
    density = (amount * style.hematoxylin * style.hematoxylin_gain)[:, None] + (
        amount * style.eosin * style.eosin_gain
    )[None]
    return style.white * np.exp(-density)


def _vignette(width: int, height: int) -> np.ndarray:
    across = np.linspace(-1, 1, width, dtype=np.float32)[None, :] ** 2
    down = np.linspace(-1, 1, height, dtype=np.float32)[:, None] ** 2
    return (1 - 0.035 * (across + down))[..., None]


def _smooth(rng: np.random.Generator, cells: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Smooth noise of about unit spread with `cells` bumps across the width."""
    coarse = rng.normal(0, 1, (max(3, cells * height // width), cells)).astype(np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def _stroma(style: Style, rng: np.random.Generator) -> Canvas:
    """Wavy collagen: streaks of noise, bent by a smooth field, with white clefts between the bundles."""
    angle = rng.uniform(0, np.pi)
    small_w, small_h = WIDTH // 8, HEIGHT // 8
    x, y = np.meshgrid(np.arange(small_w, dtype=np.float32) * 8, np.arange(small_h, dtype=np.float32) * 8)
    bend = 130 * _smooth(rng, 7, small_h, small_w) + 16 * _smooth(rng, 34, small_h, small_w)
    along = x * np.cos(angle) + y * np.sin(angle) + 60 * _smooth(rng, 5, small_h, small_w)
    across = -x * np.sin(angle) + y * np.cos(angle) + bend
    slope_y, slope_x = np.gradient(across, 8)
    direction = np.arctan2(-slope_x, slope_y).astype(np.float32)
    maps = [cv2.resize(plane.astype(np.float32), (WIDTH, HEIGHT)) for plane in (along, across)]
    streaks = cv2.remap(_streaks(rng), maps[0], maps[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    amount = np.clip(128 + 30 * _smooth(rng, 9, small_h, small_w), 0, 255).astype(np.uint8)
    tissue = cv2.addWeighted(streaks, 1.0, cv2.resize(amount, (WIDTH, HEIGHT)), 1.0, -128)
    share = np.arange(256) / 255
    gaps = np.clip((share - (style.clefts - 0.12)) * 9, 0.06, 1)
    eosin = gaps * (62 + 95 * style.fibres * share)
    hematoxylin = gaps * (8 + 14 * (1 - share))
    tables = [np.clip(table, 0, 255).astype(np.uint8) for table in (hematoxylin, eosin)]
    return Canvas(cv2.LUT(tissue, tables[0]), cv2.LUT(tissue, tables[1]), direction)


def _streaks(rng: np.random.Generator, side: int = 1500) -> np.ndarray:
    """Horizontal streaks, uint8, of four thicknesses."""
    total = np.zeros((side, side), np.float32)
    for thickness, length, weight in ((34, 420, 0.38), (11, 150, 0.28), (4, 60, 0.2), (2, 26, 0.2)):
        coarse = rng.random((side // thickness + 2, side // length + 3), dtype=np.float32)
        total += weight * cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    return np.clip((total - 0.53) * 510 + 128, 0, 255).astype(np.uint8)


def _blob(rng: np.random.Generator, x: float, y: float, radius: float, wobble: float, stretch: float = 1.0):
    """A closed outline: a circle with a few random harmonics, stretched and turned."""
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    reach = np.ones_like(turn)
    for order in (2, 3, 4, 6):
        reach += wobble / order**0.5 * rng.normal() * np.cos(order * turn + rng.uniform(0, 6.3))
    reach = np.clip(reach, 0.45, 1.7) * radius
    tilt = rng.uniform(0, np.pi)
    long, short = reach * np.cos(turn) * stretch, reach * np.sin(turn) / stretch
    return np.stack(
        [x + long * np.cos(tilt) - short * np.sin(tilt), y + long * np.sin(tilt) + short * np.cos(tilt)], 1
    )


def _fill(canvas: Canvas, outline: np.ndarray, hematoxylin: float | None, eosin: float | None) -> None:
    points = [np.round(outline * 8).astype(np.int32)]
    for plane, value in ((canvas.hematoxylin, hematoxylin), (canvas.eosin, eosin)):
        if value is not None:
            cv2.fillPoly(plane, points, float(value), cv2.LINE_AA, 3)


def _line(canvas: Canvas, path: np.ndarray, thickness: float, hematoxylin: float, eosin: float, closed=False):
    points = [np.round(path * 8).astype(np.int32)]
    for plane, value in ((canvas.hematoxylin, hematoxylin), (canvas.eosin, eosin)):
        cv2.polylines(plane, points, closed, float(value), max(1, round(thickness)), cv2.LINE_AA, 3)


def _nuclei(canvas: Canvas, style: Style, rng, x, y, angle, size=1.0, aspect=1.35, dark=1.0) -> None:
    """Note nuclei for drawing: columns x, y, long radius, short radius, angle, darkness."""
    x = np.atleast_1d(np.asarray(x, float))
    n = len(x)
    if n == 0:
        return
    radius = style.radius * size * np.exp(rng.normal(0, style.spread, n))
    ratio = np.clip(aspect * np.exp(rng.normal(0, 0.12, n)), 1, 4)
    darkness = np.clip(dark * rng.normal(0.78, 0.10, n), 0.4, 1.1)
    rows = [
        x,
        np.broadcast_to(y, n),
        radius * ratio**0.5,
        radius / ratio**0.5,
        np.broadcast_to(angle, n),
        darkness,
    ]
    canvas.nuclei.append(np.stack([np.asarray(row, float) for row in rows], 1))


def _draw_nuclei(canvas: Canvas, rng: np.random.Generator) -> None:
    """All noted nuclei: a dark rim, paler chromatin inside where they are large, nucleoli where larger still."""
    if not canvas.nuclei:
        return
    nuclei = np.concatenate(canvas.nuclei)
    inside = (nuclei[:, 0] > 0) & (nuclei[:, 0] < WIDTH) & (nuclei[:, 1] > 0) & (nuclei[:, 1] < HEIGHT)
    nuclei = nuclei[inside]
    turn = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    rough = 1 + rng.normal(0, 0.055, (len(nuclei), 12))
    long, short = nuclei[:, 2:3] * np.cos(turn) * rough, nuclei[:, 3:4] * np.sin(turn) * rough
    cosine, sine = np.cos(nuclei[:, 4:5]), np.sin(nuclei[:, 4:5])
    shape = np.stack([long * cosine - short * sine, long * sine + short * cosine], 2)
    centre = nuclei[:, None, 0:2]
    rims = np.round((centre + shape) * 8).astype(np.int32)
    cores = np.round((centre + shape * 0.72) * 8).astype(np.int32)
    spots = np.round((centre[:, 0] + rng.normal(0, 1.4, (len(nuclei), 2))) * 8).astype(np.int32)
    dark = np.clip(nuclei[:, 5] * 225, 0, 250)
    pale = rng.uniform(0.72, 0.98, len(nuclei))
    for number in range(len(nuclei)):
        value = float(dark[number])
        cv2.fillConvexPoly(canvas.hematoxylin, rims[number], value, cv2.LINE_AA, 3)
        cv2.fillConvexPoly(canvas.eosin, rims[number], 45.0, cv2.LINE_AA, 3)
        if nuclei[number, 3] > 5.2:
            cv2.fillConvexPoly(canvas.hematoxylin, cores[number], value * pale[number], cv2.LINE_AA, 3)
        if nuclei[number, 3] > 7.6:
            spot = (int(spots[number, 0]), int(spots[number, 1]))
            cv2.circle(canvas.hematoxylin, spot, 13, min(250.0, value * 1.25), -1, cv2.LINE_AA, 3)
    chromatin = cv2.resize(rng.integers(165, 256, (HEIGHT // 3, WIDTH // 3), dtype=np.uint8), (WIDTH, HEIGHT))
    cv2.multiply(canvas.hematoxylin, chromatin, canvas.hematoxylin, scale=1 / 210)
    cv2.multiply(canvas.eosin, cv2.flip(chromatin, -1), canvas.eosin, scale=1 / 210)
    canvas.hematoxylin = cv2.blur(canvas.hematoxylin, (3, 3))


def _places(rng: np.random.Generator, count: int, distance: float, area=None) -> np.ndarray:
    """Up to `count` places no two of which are nearer than `distance`."""
    left, top, right, bottom = area or (0, 0, WIDTH, HEIGHT)
    kept, found = np.empty((count, 2)), 0
    for place in rng.uniform((left, top), (right, bottom), (count * 12, 2)):
        if found == count:
            break
        if ((kept[:found] - place) ** 2).sum(1).min(initial=np.inf) > distance**2:
            kept[found] = place
            found += 1
    return kept[:found]


def _fat(canvas: Canvas, style: Style, rng: np.random.Generator) -> None:
    """Fat: large empty cells with thin walls, in lobes."""
    for x, y in _places(rng, int(2 + 3 * style.fat), 700):
        cells = _places(rng, 45, 135, (x - 430, y - 430, x + 430, y + 430))
        cells = cells[np.hypot(cells[:, 0] - x, cells[:, 1] - y) < 430]
        for a, b in cells:
            outline = _blob(rng, a, b, rng.uniform(74, 92), 0.07, rng.uniform(1, 1.15))
            _fill(canvas, outline, 0, 4)
            _line(canvas, outline, 5, 14, 105, closed=True)
            if rng.random() < 0.35:
                edge = outline[rng.integers(40)]
                _nuclei(canvas, style, rng, edge[0], edge[1], rng.uniform(0, 3.1), 0.8, 2.4, 1.05)


def _gland(canvas: Canvas, style: Style, rng, x: float, y: float, radius: float, open_share: float) -> None:
    """A benign acinus or duct: lumen, a row of epithelium, a flat row of myoepithelium, its membrane."""
    outline = _blob(rng, x, y, radius, 0.07, rng.uniform(1, 1.25))
    centre = np.array([x, y])
    wall = min(radius * (1 - open_share), style.radius * 4.2)
    lumen = centre + (outline - centre) * max(0.12, 1 - wall / radius)
    _line(canvas, centre + (outline - centre) * 1.06, 5, 6, rng.uniform(15, 70), closed=True)
    _fill(canvas, outline, 46, 84)
    _fill(canvas, lumen, 0, 3 if rng.random() < 0.7 else 55)
    length = 2 * np.pi * radius
    for share, size, aspect, gap, dark in ((0.48, 1.0, 1.5, 2.0, 1.0), (0.08, 0.72, 2.0, 3.2, 1.12)):
        count = max(4, int(length / (style.radius * gap * style.crowding)))
        turn = np.linspace(0, 2 * np.pi, count, endpoint=False) + rng.normal(0, 0.06, count)
        ring = outline[(turn / (2 * np.pi) * 40).astype(int) % 40]
        place = centre + (ring - centre) * (1 - wall * share / radius) + rng.normal(0, 0.9, (count, 2))
        outward = np.arctan2(*(ring - centre).T[::-1])
        angle = outward if share > 0.3 else outward + np.pi / 2
        _nuclei(canvas, style, rng, place[:, 0], place[:, 1], angle, size, aspect, dark)


def _tint(canvas: Canvas, outline: np.ndarray, eosin: float, hematoxylin: float = 0.0) -> None:
    """Multiply the eosin inside an outline and add hematoxylin, with a soft edge: the fibres stay visible."""
    low = np.clip(outline.min(0).astype(int) - 20, 0, (WIDTH, HEIGHT))
    high = np.clip(outline.max(0).astype(int) + 20, 0, (WIDTH, HEIGHT))
    if (high - low).min() < 4:
        return
    mask = np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8)
    cv2.fillPoly(mask, [(outline - low).astype(np.int32)], 255)
    soft = cv2.blur(mask, (31, 31)).astype(np.float32) / 255
    window = (slice(low[1], high[1]), slice(low[0], high[0]))
    canvas.eosin[window] = (canvas.eosin[window] * (1 + soft * (eosin - 1))).clip(0, 255).astype(np.uint8)
    added = canvas.hematoxylin[window] + soft * hematoxylin
    canvas.hematoxylin[window] = added.clip(0, 255).astype(np.uint8)


def _lobules(canvas, style, rng, lobules: int, reach: float, glands: int, radius: tuple, open_share: tuple):
    """Round groups of glands in their own paler stroma."""
    for x, y in _places(rng, lobules, reach * 1.6):
        gap = 2.25 * (radius[0] + radius[1]) / 2
        places = _places(rng, glands, gap, (x - reach, y - reach, x + reach, y + reach))
        _tint(canvas, _blob(rng, x, y, reach * 1.15, 0.08), 0.72, 8)
        for a, b in places[np.hypot(places[:, 0] - x, places[:, 1] - y) < reach]:
            _gland(canvas, style, rng, a, b, rng.uniform(*radius), rng.uniform(*open_share))


def _adenosis(canvas: Canvas, style: Style, rng: np.random.Generator) -> None:
    scale = style.radius / 6.6
    _lobules(canvas, style, rng, 5, 330, 34, (34 * scale, 62 * scale), (0.3, 0.6))
    for x, y in _places(rng, 4, 500):
        _gland(canvas, style, rng, x, y, rng.uniform(90, 170), rng.uniform(0.6, 0.8))


def _tubular_adenoma(canvas: Canvas, style: Style, rng: np.random.Generator) -> None:
    scale = style.radius / 6.6
    for x, y in _places(rng, 3, 900):
        _tint(canvas, _blob(rng, x, y, 540, 0.1), 0.7, 6)
        places = _places(rng, 150, 80 * scale, (x - 480, y - 480, x + 480, y + 480))
        for a, b in places[np.hypot(places[:, 0] - x, places[:, 1] - y) < 480]:
            _gland(canvas, style, rng, a, b, rng.uniform(34, 41) * scale, rng.uniform(0.2, 0.45))


def _path(rng: np.random.Generator, x: float, y: float, length: float, bend: float, step: float = 14.0):
    """A smooth walk from a point: n x 2."""
    count = max(4, int(length / step))
    angle = rng.uniform(0, 2 * np.pi) + np.cumsum(
        cv2.GaussianBlur(rng.normal(0, bend, (count, 1)), (1, 9), 3)
    )
    return np.array([x, y]) + step * np.cumsum(np.stack([np.cos(angle), np.sin(angle)], 1), 0)


def _along(path: np.ndarray, spacing: float) -> tuple[np.ndarray, np.ndarray]:
    """Places every `spacing` along a path, and the direction there."""
    parts = np.diff(path, axis=0)
    travelled = np.concatenate([[0], np.cumsum(np.hypot(parts[:, 0], parts[:, 1]))])
    wanted = np.arange(0, travelled[-1], spacing)
    places = np.stack([np.interp(wanted, travelled, path[:, axis]) for axis in (0, 1)], 1)
    ahead = np.stack([np.interp(wanted + spacing, travelled, path[:, axis]) for axis in (0, 1)], 1)
    gone = ahead - places
    return places, np.arctan2(gone[:, 1], gone[:, 0])


def _epithelium_along(canvas, style, rng, path: np.ndarray, offset: float, rows: int, size=1.0) -> None:
    """Rows of nuclei on both sides of a path, standing upright to it."""
    places, angle = _along(path, style.radius * 1.95 * style.crowding * size)
    for side in (-1, 1):
        for row in range(rows):
            reach = side * (offset + row * style.radius * 2.1 * size)
            x = places[:, 0] - np.sin(angle) * reach + rng.normal(0, 1.5, len(places))
            y = places[:, 1] + np.cos(angle) * reach + rng.normal(0, 1.5, len(places))
            _nuclei(canvas, style, rng, x, y, angle + np.pi / 2, size, 1.5)


def _slit_ducts(canvas, style, rng, count: int, length: tuple, opening: tuple, rows: int) -> None:
    """Long compressed ducts: epithelium on both sides of a slit."""
    for x, y in _places(rng, count, 330):
        path = _path(rng, x, y, rng.uniform(*length), 0.28)
        slit = rng.uniform(*opening)
        thickness = slit + 2 * style.radius * 2.2 * rows
        _line(canvas, path, thickness + 26, 10, 46)
        _line(canvas, path, thickness, 46, 82)
        _line(canvas, path, slit, 0, 3)
        _epithelium_along(canvas, style, rng, path, slit / 2 + style.radius * 1.2, rows)


def _fibroadenoma(canvas: Canvas, style: Style, rng: np.random.Generator) -> None:
    for x, y in _places(rng, 4, 800):
        _tint(canvas, _blob(rng, x, y, 520, 0.2), 0.62, 4)
    _slit_ducts(canvas, style, rng, 16, (350, 800), (4, 26), 1)
    for x, y in _places(rng, 5, 450):
        _gland(canvas, style, rng, x, y, rng.uniform(45, 80), rng.uniform(0.4, 0.7))


def _phyllodes(canvas: Canvas, style: Style, rng: np.random.Generator) -> None:
    _slit_ducts(canvas, style, rng, 6, (900, 1500), (50, 170), 1)
    _slit_ducts(canvas, style, rng, 4, (300, 600), (6, 22), 1)


def _nest(canvas, style, rng, x: float, y: float, radius: float, stretch: float, lumens: float) -> None:
    """A solid nest of tumour cells; here and there a small irregular lumen."""
    outline = _blob(rng, x, y, radius, 0.16, stretch)
    _fill(canvas, outline, 52, 76)
    _line(canvas, outline, 6, 10, 35, closed=True)
    gap = style.radius * 2.2 * style.crowding
    reach = radius * 1.7 * stretch
    columns, rows = np.meshgrid(np.arange(-reach, reach, gap), np.arange(-reach, reach, gap * 0.9))
    columns[1::2] += gap / 2
    places = np.stack([columns.ravel() + x, rows.ravel() + y], 1) + rng.normal(
        0, gap * 0.22, (columns.size, 2)
    )
    inside = _inside(outline, places)
    for _ in range(rng.poisson(lumens)):
        hole = _blob(
            rng, x + rng.normal(0, radius / 2), y + rng.normal(0, radius / 2), rng.uniform(10, 22), 0.2
        )
        if _inside(outline, hole).all():
            _fill(canvas, hole, 0, 8)
            inside &= ~_inside(hole, places)
    cells = places[inside]
    aspect = rng.uniform(1.1, 1.6, len(cells))
    _nuclei(canvas, style, rng, cells[:, 0], cells[:, 1], rng.uniform(0, 3.2, len(cells)), 1.0, aspect)


def _inside(outline: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Which places lie inside a closed outline (ray casting)."""
    x, y = places[:, 0:1], places[:, 1:2]
    ahead = np.roll(outline, -1, axis=0)
    crosses = (outline[:, 1] > y) != (ahead[:, 1] > y)
    rise = ahead[:, 1] - outline[:, 1]
    rise = np.where(rise == 0, 1e-9, rise)
    where = (ahead[:, 0] - outline[:, 0]) * (y - outline[:, 1]) / rise + outline[:, 0]
    return (crosses & (x < where)).sum(1) % 2 == 1


def _ductal(canvas: Canvas, style: Style, rng: np.random.Generator) -> None:
    solid = rng.uniform(0.6, 1.5)
    for x, y in _places(rng, int(26 * style.cells**0.5), 190):
        _nest(canvas, style, rng, x, y, rng.uniform(50, 130) * solid, rng.uniform(1, 1.5), 0.9)
    _single_cells(canvas, style, rng, int(160 * style.cells))


def _lobular(canvas: Canvas, style: Style, rng: np.random.Generator) -> None:
    """Single files of cells between the fibres."""
    for x, y in rng.uniform((0, 0), (WIDTH, HEIGHT), (int(330 * style.cells**0.5), 2)):
        place, cells = np.array([x, y]), []
        sign = rng.choice([-1, 1])
        for _ in range(rng.integers(4, 18)):
            if not (0 <= place[0] < WIDTH and 0 <= place[1] < HEIGHT):
                break
            angle = canvas.direction_at(place[None])[0]
            cells.append((*place, angle))
            step = style.radius * 2.2 * style.crowding
            place = place + sign * step * np.array([np.cos(angle), np.sin(angle)]) + rng.normal(0, 1.6, 2)
        if len(cells) > 2:
            row = np.array(cells)
            _line(canvas, row[:, :2], style.radius * 2.6, 34, 74)
            _nuclei(canvas, style, rng, row[:, 0], row[:, 1], row[:, 2], 0.86, 1.2)
    _single_cells(canvas, style, rng, int(260 * style.cells))


def _mucinous(canvas: Canvas, style: Style, rng: np.random.Generator) -> None:
    """Pools of pale mucin with islands of cells afloat."""
    for x, y in _places(rng, 7, 560):
        pool = _blob(rng, x, y, rng.uniform(240, 420), 0.14, rng.uniform(1, 1.35))
        _tint(canvas, pool, 0.2, 14)
        for a, b in _places(rng, int(rng.integers(3, 8)), 150, (x - 260, y - 200, x + 260, y + 200)):
            _nest(canvas, style, rng, a, b, rng.uniform(34, 80), rng.uniform(1, 1.5), 0.3)
    _single_cells(canvas, style, rng, int(60 * style.cells))


def _papillary(canvas: Canvas, style: Style, rng: np.random.Generator) -> None:
    """Fronds with a core of stroma, standing in open spaces."""
    for x, y in _places(rng, 5, 760):
        _fill(canvas, _blob(rng, x, y, rng.uniform(340, 480), 0.12, rng.uniform(1, 1.25)), 0, 4)
        for a, b in _places(rng, 9, 120, (x - 280, y - 240, x + 280, y + 240)):
            path = _path(rng, a, b, rng.uniform(200, 420), 0.34)
            core = rng.uniform(10, 34)
            rows = int(rng.integers(1, 3))
            _line(canvas, path, core + 2 * style.radius * (2.3 * rows + 0.3), 48, 80)
            _line(canvas, path, core, 10, 92)
            _epithelium_along(canvas, style, rng, path, core / 2 + style.radius * 1.25, rows)
    _single_cells(canvas, style, rng, int(60 * style.cells))


def _single_cells(canvas: Canvas, style: Style, rng: np.random.Generator, count: int) -> None:
    """Tumour cells that lie loose in the stroma."""
    places = rng.uniform((0, 0), (WIDTH, HEIGHT), (count, 2))
    _nuclei(canvas, style, rng, places[:, 0], places[:, 1], rng.uniform(0, 3.2, count), 1.0, 1.4)


def _spindle_cells(canvas: Canvas, style: Style, rng: np.random.Generator, amount: float) -> None:
    """Fibroblasts: thin dark nuclei along the fibres, where there is stroma; the same in both classes."""
    places = rng.uniform((0, 0), (WIDTH, HEIGHT), (int(1150 * style.cells * amount), 2))
    columns, rows = places[:, 0].astype(int), places[:, 1].astype(int)
    stroma = (canvas.eosin[rows, columns] > 55) & (canvas.hematoxylin[rows, columns] < 30)
    places = places[stroma]
    angle = canvas.direction_at(places) + rng.normal(0, 0.2, len(places))
    plain = replace(style, radius=6.0, spread=0.2)
    _nuclei(canvas, plain, rng, places[:, 0], places[:, 1], angle, 0.9, 2.6, 1.02)


def _mimics(canvas: Canvas, style: Style, rng: np.random.Generator, malignant: bool) -> None:
    """What makes the task hard: normal glands beside a carcinoma, crowded solid ducts in a benign lesion."""
    if malignant:
        plain = replace(style, radius=6.4, spread=0.12, crowding=1.0)
        for x, y in _places(rng, int(rng.integers(0, 18)), 170):
            _gland(canvas, plain, rng, x, y, rng.uniform(34, 85), rng.uniform(0.3, 0.7))
    else:
        plain = replace(style, radius=max(style.radius, 6.8), spread=0.2, crowding=0.95)
        for x, y in _places(rng, int(rng.integers(0, 10)), 220):
            _nest(canvas, plain, rng, x, y, rng.uniform(40, 100), rng.uniform(1, 1.4), 1.5)


def _lymphocytes(canvas: Canvas, style: Style, rng: np.random.Generator) -> None:
    """Small round dark nuclei in loose groups, benign and malignant alike."""
    for x, y in _places(rng, int(rng.integers(2, 8)), 350):
        places = rng.normal((x, y), rng.uniform(50, 110), (int(rng.integers(40, 160)), 2))
        _nuclei(canvas, style, rng, places[:, 0], places[:, 1], 0.0, 0.62, 1.1, 1.25)


_STRUCTURES = {
    "A": _adenosis,
    "F": _fibroadenoma,
    "PT": _phyllodes,
    "TA": _tubular_adenoma,
    "DC": _ductal,
    "LC": _lobular,
    "MC": _mucinous,
    "PC": _papillary,
}
