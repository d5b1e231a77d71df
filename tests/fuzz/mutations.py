"""Ways to spoil a file: pure functions from bytes to bytes, drawn from a seeded `random.Random`.

A `Layout` says where a format keeps its parts and numbers, so that headers are edited where it hurts: dimensions, bit
depths, lengths, offsets. Checksums that would only hide an edit from the decoder are mended again.
"""

import random
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
CONTAINER_BOXES = {b"meta": 4, b"iprp": 0, b"ipco": 0, b"iinf": 6, b"moov": 0, b"trak": 0, b"mdia": 0, b"minf": 0}


@dataclass(frozen=True)
class Number:
    """An unsigned number in a file."""

    start: int
    width: int  # bytes
    order: str  # "<" little endian, ">" big endian


@dataclass
class Layout:
    """Where the parts and numbers of one file lie."""

    parts: list[tuple[int, int]] = field(default_factory=list)  # (start, end) of chunks, segments, entries, boxes
    numbers: list[Number] = field(default_factory=list)
    mend: Callable[[bytearray], None] | None = None  # recomputes checksums in place, lengths unchanged

    def add(self, start: int, *widths: int, order: str) -> None:
        """Note consecutive numbers of `widths` bytes that begin at `start`."""
        for width in widths:
            self.numbers.append(Number(start, width, order))
            start += width


# --- layouts ---------------------------------------------------------------------------------------------------------


def png_layout(data: bytes) -> Layout:
    """Chunks of a PNG: length, type, data, CRC."""
    layout, at = Layout(), len(PNG_SIGNATURE)
    while at + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        layout.parts.append((at, at + 12 + length))
        layout.add(at, 4, order=">")
        widths = {b"IHDR": (4, 4, 1, 1, 1, 1, 1), b"acTL": (4, 4), b"fcTL": (4,) * 5 + (2, 2, 1, 1), b"pHYs": (4, 4, 1)}
        layout.add(at + 8, *widths.get(name, ()), order=">")
        at += 12 + length
    chunks = list(layout.parts)

    def mend(copy: bytearray) -> None:
        for start, end in chunks:
            struct.pack_into(">I", copy, end - 4, zlib.crc32(copy[start + 4 : end - 4]))

    layout.mend = mend
    return layout


def jpeg_layout(data: bytes) -> Layout:
    """Marker segments of a JPEG up to the first scan; the scan is one part."""
    layout, at = Layout(), 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        layout.parts.append((at, at + 2 + length))
        layout.add(at + 1, 1, 2, order=">")
        if marker in (0xC0, 0xC1, 0xC2):  # frame: precision, height, width, components, then three bytes for each
            layout.add(at + 4, 1, 2, 2, 1, 1, 1, 1, order=">")
        at += 2 + length
        if marker == 0xDA:
            layout.parts.append((at, len(data)))
            break
    return layout


def riff_layout(data: bytes) -> Layout:
    """Chunks of a WebP."""
    layout, at = Layout(), 12
    layout.add(4, 4, order="<")
    while at + 8 <= len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        layout.parts.append((at, at + 8 + length + length % 2))
        layout.add(at + 4, 4, 4, 2, 2, 2, 2, 2, order="<")  # length, then flags, sizes or signature by kind of chunk
        at += 8 + length + length % 2
    return layout


def tiff_layout(data: bytes) -> Layout:
    """Entries of the directories of a classic TIFF, and the arrays they point to."""
    order = "<" if data[:2] == b"II" else ">"
    layout = Layout()
    layout.add(2, 2, 4, order=order)
    directory, seen = struct.unpack_from(order + "I", data, 4)[0], set[int]()
    while 0 < directory < len(data) - 6 and directory not in seen:
        seen.add(directory)
        (count,) = struct.unpack_from(order + "H", data, directory)
        layout.add(directory, 2, order=order)
        for at in range(directory + 2, directory + 2 + 12 * count, 12):
            layout.parts.append((at, at + 12))
            kind, items, pointer = struct.unpack_from(order + "HII", data, at + 2)
            layout.add(at, 2, 2, 4, order=order)
            layout.add(at + 8, *((2,) if kind == 3 and items == 1 else (4,)), order=order)
            if items > 1 and pointer + 8 < len(data):
                layout.add(pointer, 4, 4, order=order)
        layout.add(directory + 2 + 12 * count, 4, order=order)
        (directory,) = struct.unpack_from(order + "I", data, directory + 2 + 12 * count)
    return layout


def bmp_layout(data: bytes) -> Layout:
    """File header, information header and pixels of a BMP."""
    layout = Layout(parts=[(0, 14), (14, 54), (54, len(data))])
    layout.add(2, 4, 2, 2, 4, 4, 4, 4, 2, 2, 4, 4, 4, 4, 4, 4, order="<")
    return layout


def gif_layout(data: bytes) -> Layout:
    """Screen descriptor of a GIF and what may be its image descriptors and extensions."""
    layout = Layout()
    layout.add(6, 2, 2, 1, 1, order="<")
    starts = [
        at for at in range(13, len(data) - 10) if data[at] == 0x2C or data[at : at + 2] in (b"\x21\xf9", b"\x21\xff")
    ]
    for start, end in zip(starts, [*starts[1:], len(data)], strict=True):
        layout.parts.append((start, end))
        layout.add(start + 1, 2, 2, 2, 2, 1, order="<")
    return layout


def boxes_layout(data: bytes) -> Layout:
    """Boxes of an AVIF (ISO base media), containers entered."""
    layout = Layout()

    def walk(at: int, end: int) -> None:
        while at + 8 <= end:
            length, name = struct.unpack_from(">I4s", data, at)
            if length < 8 or at + length > end:
                return
            layout.parts.append((at, at + length))
            layout.add(at, 4, order=">")
            if name in CONTAINER_BOXES:
                walk(at + 8 + CONTAINER_BOXES[name], at + length)
            else:
                layout.add(at + 8, *(4,) * min(4, length // 4 - 2), order=">")
            at += length

    walk(0, len(data))
    return layout


def safetensors_layout(data: bytes) -> Layout:
    """Length, JSON header and numbers of a safetensors file."""
    length = int.from_bytes(data[:8], "little")
    layout = Layout(parts=[(0, 8), (8, 8 + length), (8 + length, len(data))])
    layout.add(0, 8, order="<")
    return layout


def zip_layout(data: bytes) -> Layout:
    """Records of a zip file, as torch.save writes it: local headers with their data, directory entries, the end."""
    layout = Layout()
    starts = [at for at in range(len(data) - 4) if data[at : at + 4] in (b"PK\3\4", b"PK\1\2", b"PK\5\6", b"PK\6\6")]
    for start, end in zip(starts, [*starts[1:], len(data)], strict=True):
        layout.parts.append((start, end))
        layout.add(start + 4, 2, 2, 2, 2, 2, 4, 4, 4, 2, 2, order="<")
    return layout


def plain_layout(data: bytes) -> Layout:
    """No structure known: lines of text, or blocks of 16 bytes."""
    parts, at = [], 0
    for piece in data.splitlines(keepends=True) if data.isascii() else _blocks(data):
        parts.append((at, at + len(piece)))
        at += len(piece)
    layout = Layout(parts=parts)
    for start in range(0, min(64, len(data) - 4), 4):
        layout.add(start, 4, order="<")
    return layout


def _blocks(data: bytes) -> Iterator[bytes]:
    return (data[at : at + 16] for at in range(0, len(data), 16))


def layout_of(data: bytes) -> Layout:
    """Return the layout of an unspoilt file, by its first bytes."""
    if data.startswith(PNG_SIGNATURE):
        return png_layout(data)
    if data.startswith(b"\xff\xd8"):
        return jpeg_layout(data)
    if data.startswith(b"RIFF"):
        return riff_layout(data)
    if data[:4] in (b"II*\0", b"MM\0*"):
        return tiff_layout(data)
    if data.startswith(b"BM"):
        return bmp_layout(data)
    if data.startswith(b"GIF8"):
        return gif_layout(data)
    if data[4:8] == b"ftyp":
        return boxes_layout(data)
    if data.startswith(b"PK\3\4"):
        return zip_layout(data)
    if data[8:9] == b"{":
        return safetensors_layout(data)
    return plain_layout(data)


# --- mutations -------------------------------------------------------------------------------------------------------


def flip_bits(data: bytearray, layout: Layout, rng: random.Random) -> None:
    """Flip one to sixteen bits anywhere."""
    for _ in range(rng.choice((1, 2, 4, 16))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def flip_header_bits(data: bytearray, layout: Layout, rng: random.Random) -> None:
    """Flip bits of the first 64 bytes."""
    for _ in range(rng.choice((1, 2, 4))):
        data[rng.randrange(min(64, len(data)))] ^= 1 << rng.randrange(8)


def truncate(data: bytearray, layout: Layout, rng: random.Random) -> None:
    """Cut the end off, most often at the border of a part or close to the end."""
    borders = [end for _, end in layout.parts if end < len(data)] or [len(data) // 2]
    del data[rng.choice((rng.choice(borders), rng.randrange(len(data)), len(data) - rng.randrange(1, 16))) :]


def zero_range(data: bytearray, layout: Layout, rng: random.Random) -> None:
    """Set a range to zero, as a disk or a download with a hole does."""
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.choice((4, 32, 512)))
    data[start:end] = bytes(end - start)


def add_garbage(data: bytearray, layout: Layout, rng: random.Random) -> None:
    """Append random bytes, or a second copy of the file."""
    data += rng.choice((rng.randbytes(rng.choice((1, 100, 5000))), bytes(data)))


def set_number(data: bytearray, layout: Layout, rng: random.Random) -> None:
    """Set one to three numbers of the header to values that break arithmetic."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        number = rng.choice(layout.numbers)
        bits = 8 * number.width
        order = "little" if number.order == "<" else "big"
        near = int.from_bytes(data[number.start : number.start + number.width], order)
        small = (0, 1, 2, 3, 8, 16, 255, 65535, 1 << 15, 1 << 16, 1_000_000)
        limits = ((1 << bits - 1) - 1, 1 << bits - 1, (1 << bits) - 1, (1 << bits) - 2)
        value = rng.choice((*small, *limits, near + 1, near - 1, near * 2, near * 1000)) % (1 << bits)
        packed = value.to_bytes(number.width, order)
        data[number.start : number.start + number.width] = packed[: max(0, len(data) - number.start)]


def duplicate_part(data: bytearray, layout: Layout, rng: random.Random) -> None:
    """Repeat a part, right behind itself or elsewhere."""
    start, end = rng.choice(layout.parts)
    at = rng.choice((end, rng.choice(layout.parts)[0]))
    data[at:at] = data[start:end] * rng.choice((1, 1, 50))


def remove_part(data: bytearray, layout: Layout, rng: random.Random) -> None:
    """Leave a part out."""
    start, end = rng.choice(layout.parts)
    del data[start:end]


def swap_parts(data: bytearray, layout: Layout, rng: random.Random) -> None:
    """Exchange two parts."""
    (a, b), (c, d) = sorted(rng.choices(layout.parts, k=2))
    if b <= c:
        data[a:d] = data[c:d] + data[b:c] + data[a:b]


IN_PLACE = (flip_bits, flip_header_bits, zero_range, set_number, set_number, set_number)  # header edits find the most
MOVING = (truncate, add_garbage, duplicate_part, remove_part, swap_parts)


def mutate(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    """Return the name of a mutation and a spoilt copy of the unspoilt file `data`, which it never equals."""
    layout = layout_of(data)
    choices = [
        change
        for change in IN_PLACE + MOVING
        if (layout.numbers or change is not set_number) and (layout.parts or "part" not in change.__name__)
    ]
    while True:
        change, copy = rng.choice(choices), bytearray(data)
        change(copy, layout, rng)
        if change in IN_PLACE and layout.mend is not None and rng.random() < 0.8:
            layout.mend(copy)
        if bytes(copy) != data:
            return change.__name__, bytes(copy)
