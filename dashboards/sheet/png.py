"""Makes PNG files of few colours small: rewrites a true-colour PNG with a palette of at most 256 colours."""

import struct
import zlib
from collections import Counter


def chunks(data):
    place = 8
    while place < len(data):
        length, kind = struct.unpack(">I4s", data[place : place + 8])
        yield kind, data[place + 8 : place + 8 + length]
        place += length + 12


def unfiltered(raw, width, height, size):
    """The rows of an image of `size` bytes per pixel."""
    stride, place, above = width * size, 0, bytearray(width * size)
    for _ in range(height):
        kind, row = raw[place], bytearray(raw[place + 1 : place + 1 + stride])
        place += stride + 1
        if kind == 1:
            for index in range(size, stride):
                row[index] = (row[index] + row[index - size]) & 255
        elif kind == 2:
            row = bytearray((value + up) & 255 for value, up in zip(row, above))
        elif kind == 3:
            for index in range(stride):
                before = row[index - size] if index >= size else 0
                row[index] = (row[index] + (before + above[index]) // 2) & 255
        elif kind == 4:
            for index in range(stride):
                before, corner = (row[index - size], above[index - size]) if index >= size else (0, 0)
                up = above[index]
                guess = before + up - corner
                ways = (abs(guess - before), abs(guess - up), abs(guess - corner))
                best = before if ways[0] <= ways[1] and ways[0] <= ways[2] else up if ways[1] <= ways[2] else corner
                row[index] = (row[index] + best) & 255
        yield row
        above = row


COARSE = bytes(min((value & 0xF8) + 4, 255) if value < 252 else 255 for value in range(256))


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_palette(data):
    parts = list(chunks(data))
    width, height, depth, kind = struct.unpack(">IIBB", parts[0][1][:10])
    size = {2: 3, 6: 4}[kind]
    assert depth == 8, "Chromium writes eight bits per channel"
    raw = zlib.decompress(b"".join(body for name, body in parts if name == b"IDAT"))
    rows = []
    for row in unfiltered(raw, width, height, size):
        # Five bits a channel are enough, and make the search for near colours short.
        coarse = row.translate(COARSE)
        rows.append(list(zip(coarse[0::size], coarse[1::size], coarse[2::size])))
    counts = Counter(pixel for row in rows for pixel in row)
    palette = [pixel for pixel, _ in counts.most_common(256)]
    place_of = {pixel: place for place, pixel in enumerate(palette)}
    for pixel in counts:
        if pixel not in place_of:
            nearest = min(range(len(palette)), key=lambda place: sum((a - b) ** 2 for a, b in zip(pixel, palette[place])))
            place_of[pixel] = nearest
    lines = b"".join(b"\0" + bytes(place_of[pixel] for pixel in row) for row in rows)
    return (
        data[:8]
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0))
        + chunk(b"PLTE", bytes(value for pixel in palette for value in pixel))
        + chunk(b"IDAT", zlib.compress(lines, 9))
        + chunk(b"IEND", b"")
    )
