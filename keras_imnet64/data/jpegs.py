"""Reads the markers of JPEG files and has every scan followed, to find out whether one is whole.

What stands between the markers is followed by `entropy`, code by code. Nothing is decoded: pixels
are computed by Pillow and TensorFlow, which are silent where a file is damaged.
"""

import struct
from dataclasses import dataclass, field
from math import ceil

import numpy as np

from . import entropy
from .damage import Damage
from .pictures import MAX_PIXELS

# Second bytes of markers.
SEQUENTIAL, PROGRESSIVE = (0xC0, 0xC1), 0xC2
FRAMES = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
TABLES, END, SCAN, INTERVAL = 0xC4, 0xD9, 0xDA, 0xDD
WITHOUT_SEGMENT = {0x00, 0x01, *range(0xD0, 0xD9)}
LOWEST_BIT, UNKNOWN = 0, -1  # of what is known of a coefficient
FAULTS = {
    entropy.ENDS_EARLY: "its data end before its last pixel",
    entropy.BAD_CODE: "its data hold a code that has no meaning",
    entropy.BAD_RESTART: "its restart markers are out of order",
    entropy.LEFT_OVER: "its data go on after its last pixel",
}


class _NotFollowed(Exception):
    """The file is of a rare kind, such as an arithmetic-coded one."""


def is_complete_jpeg(content):
    """Whether a JPEG was followed from its first marker to its last and holds every coefficient.

    False for kinds that are not followed, where the last marker is missing, and where a progressive
    file never gives all bits of its coefficients, for which decoders make up for by smoothing.

    Raises:
        Damage: the codes of its pixels are wrong, or some are missing.
    """
    jpeg = _Jpeg(content)
    try:
        has_end = jpeg.follow()
    except _NotFollowed:
        return False
    except struct.error:
        raise Damage("it ends within its header, or a length there is wrong") from None
    known = np.array([colour.known for colour in jpeg.colours.values()])  # [colours, 64]
    if not len(known) or (known[:, 0] == UNKNOWN).any():
        raise Damage("it lacks the pixels of a colour")
    has_all_bits = (known == LOWEST_BIT).all()
    if not has_end and not has_all_bits:
        raise Damage("it ends before its last scan")
    return bool(has_end and has_all_bits)


@dataclass
class _Colour:
    """A component of the picture.

    Attributes:
        horizontal, vertical: its sampling factors.
        known: of each coefficient the lowest bit that scans have given, or UNKNOWN.
        nonzero: uint64 of each block, see `entropy.follow`.
    """

    horizontal: int
    vertical: int
    known: np.ndarray = field(default_factory=lambda: np.full(64, UNKNOWN))
    nonzero: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))


class _Jpeg:
    """A file, and what its markers have said so far."""

    def __init__(self, content):
        self.content, self.data = content, np.frombuffer(content, np.uint8)
        self.colours, self.size, self.is_progressive = {}, (0, 0), False
        self.interval = 0  # units between restart markers
        self.tables = np.zeros((8, entropy.TABLE_LENGTH), np.int32)  # four DC, then four AC
        self.symbols = np.zeros((8, entropy.MOST_SYMBOLS), np.uint8)
        self.defined = set()  # rows of these

    def follow(self):
        """Read every segment and follow every scan; returns whether the last marker is there."""
        place = 2
        while (place := self._next_marker(place)) is not None:
            marker, place = self.content[place], place + 1
            if marker == END:
                return True
            if marker in WITHOUT_SEGMENT:
                continue
            (length,) = struct.unpack_from(">H", self.content, place)
            segment = self.content[place + 2 : place + length]
            place += max(length, 2)
            if marker in FRAMES:
                self._read_frame(marker, segment)
            elif marker == TABLES:
                self._read_tables(segment)
            elif marker == INTERVAL:
                (self.interval,) = struct.unpack_from(">H", segment)
            elif marker == SCAN:
                place = self._follow_scan(segment, place)
        return False

    def _next_marker(self, place):
        """Where the second byte of the next marker stands; None at the end of the file."""
        place = self.content.find(b"\xff", place)
        while 0 <= place < len(self.content) and self.content[place] == 0xFF:
            place += 1  # any number of these may stand before it
        return place if 0 <= place < len(self.content) else None

    def _read_frame(self, marker, segment):
        precision, height, width, count = struct.unpack_from(">BHHB", segment)
        if marker not in (*SEQUENTIAL, PROGRESSIVE) or precision != 8:
            raise _NotFollowed
        if not 0 < height * width <= MAX_PIXELS:  # one may follow the first scan, in rare files
            raise _NotFollowed
        if self.colours:
            raise Damage("it holds two frames")
        self.is_progressive, self.size = marker == PROGRESSIVE, (height, width)
        for number in range(count):
            name, sampling, _ = struct.unpack_from("BBB", segment, 6 + 3 * number)
            horizontal, vertical = sampling >> 4, sampling & 15
            if not (1 <= horizontal <= 4 and 1 <= vertical <= 4):
                raise Damage("the resolution of a colour is wrong")
            self.colours[name] = _Colour(horizontal, vertical)

    def _read_tables(self, segment):
        while segment:
            number, *counts = struct.unpack_from("17B", segment)
            symbols, segment = segment[17 : 17 + sum(counts)], segment[17 + sum(counts) :]
            row = number >> 4 << 2 | number & 3
            if number & ~0x13 or len(symbols) != sum(counts) or sum(counts) > entropy.MOST_SYMBOLS:
                raise Damage("a table of its codes is wrong")
            self.symbols[row, : len(symbols)] = np.frombuffer(symbols, np.uint8)
            if not entropy.fill_table(self.tables[row], np.array(counts), self.symbols[row]):
                raise Damage("a table of its codes is wrong")
            self.defined.add(row)

    # ------------------------------------------------------------------------------------- scans

    def _follow_scan(self, header, begin):
        """Follow the codes of a scan that begin there; returns where they end."""
        scan = self._read_scan(header)
        num_units, blocks = self._units(scan)
        if not {row for pair in blocks for row in scan.tables_of(*pair)} <= self.defined:
            raise _NotFollowed
        self._note_known(scan)
        first, last = scan.band
        colour = scan.colours[0]
        if first and len(colour.nonzero) != num_units:
            colour.nonzero = np.zeros(num_units, np.uint64)
        per_part = self.interval or num_units
        status, data, ends, end = entropy.scan_data(self.data, begin, -(-num_units // per_part))
        if status == entropy.WHOLE:
            status = entropy.follow(
                data,
                ends,
                num_units,
                per_part,
                np.array(blocks, np.int64),
                self.tables,
                self.symbols,
                (first, last, scan.refines, scan.is_sequential),
                colour.nonzero,
            )
        if status != entropy.WHOLE:
            raise Damage(FAULTS[status])
        return end

    def _read_scan(self, header):
        (count,) = struct.unpack_from("B", header)
        named = [struct.unpack_from("BB", header, 1 + 2 * number) for number in range(count)]
        first, last, bits = struct.unpack_from("BBB", header, 1 + 2 * count)
        if not named or any(name not in self.colours for name, _ in named):
            raise Damage("a scan is of a colour that it does not have")
        if not self.is_progressive:
            first, last, bits = 0, 63, 0  # whatever stands there, which decoders do not look at
        elif last > 63 or first > last or (first == 0) != (last == 0) or (first and count > 1):
            raise Damage("a scan is of coefficients that it cannot have")
        elif bits >> 4 and bits >> 4 != (bits & 15) + 1:
            raise Damage("a scan is of bits that it cannot have")
        colours = [self.colours[name] for name, _ in named]
        rows = [(tables >> 4 & 3, 4 + (tables & 3)) for _, tables in named]
        return _Scan(colours, rows, (first, last), bits >> 4, bits & 15, not self.is_progressive)

    def _units(self, scan):
        """(how many units a scan has, the rows of `tables` for each block of one)."""
        height, width = self.size
        most_rows = max(colour.vertical for colour in self.colours.values())
        most_columns = max(colour.horizontal for colour in self.colours.values())
        if len(scan.colours) == 1:  # a unit is a block, and none lies outside the picture
            (colour,) = scan.colours
            rows = ceil(ceil(height * colour.vertical / most_rows) / 8)
            columns = ceil(ceil(width * colour.horizontal / most_columns) / 8)
            return rows * columns, scan.rows
        num_units = ceil(height / (8 * most_rows)) * ceil(width / (8 * most_columns))
        pairs = zip(scan.colours, scan.rows, strict=True)
        return num_units, [
            rows for colour, rows in pairs for _ in range(colour.horizontal * colour.vertical)
        ]

    def _note_known(self, scan):
        """Bits of a coefficient come one scan after the other, from the highest down."""
        first, last = scan.band
        for colour in scan.colours:
            before = colour.known[first : last + 1]
            expected = scan.high if scan.refines else UNKNOWN
            if self.is_progressive and (before != expected).any():
                raise Damage("a scan is missing or doubled")
            before[:] = scan.low
        if first and scan.colours[0].known[0] == UNKNOWN:
            raise Damage("a scan is missing or doubled")


@dataclass
class _Scan:
    """What the header of a scan says.

    Attributes:
        rows: of each colour, those of the tables of its DC and AC codes.
        band: the first and the last coefficient that it holds.
        high, low: the bits of them that were known before, and after it.
    """

    colours: list
    rows: list
    band: tuple
    high: int
    low: int
    is_sequential: bool

    @property
    def refines(self):
        return self.high > 0

    def tables_of(self, dc, ac):
        """Those of a block's two tables that the scan has need of."""
        if self.is_sequential:
            return (dc, ac)
        if self.band[0]:
            return (ac,)
        return () if self.refines else (dc,)
