"""Draws the CSV of the history bench as a PNG: one panel per column, over hours. Nothing but the standard library."""

import csv
import struct
import sys
import zlib

WIDTH, PANEL, LEFT, TOP = 900, 120, 70, 24
# Five rows of three bits each.
FONT = {
    "0": "75557", "1": "26227", "2": "71747", "3": "71717", "4": "55711", "5": "74717", "6": "74757", "7": "71111", "8": "75757", "9": "75717",
    ".": "00002", "_": "00007", "/": "11244", "-": "00700", " ": "00000",
    "a": "02757", "b": "44757", "c": "00747", "d": "11757", "e": "07647", "h": "44755", "i": "20222", "k": "45655", "l": "44447", "m": "00775",
    "n": "00755", "o": "00757", "p": "07574", "r": "00744", "s": "07427", "t": "47447", "u": "00557", "y": "05717",
}


class Canvas:
    def __init__(self, width, height):
        self.width, self.height = width, height
        self.rows = [bytearray(b"\xff" * width * 3) for _ in range(height)]

    def dot(self, x, y, color):
        if 0 <= x < self.width and 0 <= y < self.height:
            self.rows[y][x * 3 : x * 3 + 3] = bytes(color)

    def line(self, x0, y0, x1, y1, color):
        steps = max(abs(x1 - x0), abs(y1 - y0), 1)
        for step in range(steps + 1):
            x, y = x0 + (x1 - x0) * step // steps, y0 + (y1 - y0) * step // steps
            self.dot(x, y, color)
            self.dot(x, y + 1, color)

    def text(self, x, y, text):
        for letter in text.lower():
            for row, bits in enumerate(FONT.get(letter, "77777")):
                for column in range(3):
                    if int(bits) >> (2 - column) & 1:
                        for dx in (0, 1):
                            for dy in (0, 1):
                                self.dot(x + column * 2 + dx, y + row * 2 + dy, (0, 0, 0))
            x += 8

    def png(self):
        def chunk(kind, data):
            body = kind + data
            return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

        head = struct.pack(">IIBBBBB", self.width, self.height, 8, 2, 0, 0, 0)
        pixels = zlib.compress(b"".join(b"\0" + bytes(row) for row in self.rows), 9)
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def main():
    source, target = sys.argv[1:3]
    with open(source, newline="") as file:
        rows = list(csv.DictReader(file))
    if len(rows) < 2:
        sys.exit(f"{source} has fewer than two lines of data")
    names = [name for name in rows[0] if name != "hours"]
    canvas = Canvas(WIDTH, TOP + PANEL * len(names))
    hours = [float(row["hours"]) for row in rows]
    span = max(hours)
    for number, name in enumerate(names):
        values = [float(row[name]) for row in rows]
        top, highest = TOP + PANEL * number, max(max(values), 1e-9)
        floor = top + PANEL - 30
        canvas.text(LEFT, top - 14, name)
        canvas.text(4, top, f"{highest:.4g}")
        canvas.text(4, floor - 8, "0")
        canvas.line(LEFT, floor, WIDTH - 10, floor, (160, 160, 160))
        canvas.line(LEFT, top, LEFT, floor, (160, 160, 160))
        points = [
            (LEFT + int((WIDTH - LEFT - 10) * hour / span), floor - int((floor - top) * value / highest)) for hour, value in zip(hours, values)
        ]
        for before, after in zip(points, points[1:]):
            canvas.line(*before, *after, (200, 60, 30))
    canvas.text(WIDTH - 100, TOP + PANEL * len(names) - 14, f"{span:.0f} hours")
    with open(target, "wb") as file:
        file.write(canvas.png())
    print(f"plot: {target}")


if __name__ == "__main__":
    main()
