"""Follows the Huffman codes of a JPEG's scans, to find out whether its pixels are all there.

A decoder goes on after a wrong code, with grey or garbage in place of what is lost, and few
programs pass its warning on. Here no pixels are computed: codes are followed from the first block
of a scan to its last, which must be where the data of the scan end. `jpegs` reads the markers. The
terms are those of ITU-T T.81, whose annexes F and G define the codes.
"""

import numpy as np

from keras_imnet64.data.compiled import compiled

WHOLE, ENDS_EARLY, BAD_CODE, BAD_RESTART, LEFT_OVER = range(5)
JUNK_BYTES = 16  # that some encoders leave before a marker, in ImageNet too
LOOKAHEAD = 9  # bits that are looked up at once; most codes are shorter
LARGEST = 1 << LOOKAHEAD  # where that part of a table begins
SHIFT = LARGEST + 17
TABLE_LENGTH = SHIFT + 17
MOST_SYMBOLS = 256
PADDING = 1024  # bytes after the data: a block has at most 64 codes of 16 + 15 bits
RESTART, LAST_RESTART, FILL = 0xD0, 0xD7, 0xFF  # second bytes of markers


@compiled
def fill_table(table, counts, symbols):
    """Make a table of canonical codes; returns whether there are as many as their lengths allow.

    Args:
        table: int32 [TABLE_LENGTH], receives for each beginning of LOOKAHEAD bits length * 256 +
            symbol, or 0 where the code is longer; then, by length, the largest code or -1, and what
            is added to a code to find its symbol.
        counts: integers [16], how many codes there are of 1, 2, ... 16 bits; at most MOST_SYMBOLS
            together.
        symbols: uint8 [MOST_SYMBOLS], what they stand for, in order.
    """
    largest, shift = table[LARGEST:], table[SHIFT:]
    table[:LARGEST] = 0
    code = place = 0
    for length in range(1, 17):
        largest[length], shift[length] = -1, place - code
        for _ in range(counts[length - 1]):
            if code >= 1 << length:
                return False
            if length <= LOOKAHEAD:
                spare = LOOKAHEAD - length
                table[code << spare : (code + 1) << spare] = length * 256 + symbols[place]
            largest[length] = code
            code, place = code + 1, place + 1
        code <<= 1
    return True


@compiled
def scan_data(data, begin, num_parts):
    """The coded data of one scan, without the zeros and markers in between.

    Args:
        data: uint8 [N], the file.
        begin: where the scan's data begin.
        num_parts: how many there are between restart markers.

    Returns:
        (status, uint8 [M + PADDING], where each part ends in it int64 [num_parts], where the next
        marker stands in the file).
    """
    clean, ends = np.zeros(len(data) - begin + PADDING, np.uint8), np.zeros(num_parts, np.int64)
    part = length = 0
    place, last = begin, len(data) - 1
    while place < last:
        byte, following = data[place], data[place + 1]
        if byte != 0xFF:
            clean[length] = byte
            length, place = length + 1, place + 1
        elif following == 0:
            clean[length] = byte
            length, place = length + 1, place + 2
        elif following == FILL:
            place += 1
        elif RESTART <= following <= LAST_RESTART:
            if part == num_parts - 1:
                break
            if following - RESTART != part % 8:
                return BAD_RESTART, clean, ends, place
            ends[part] = length
            part, place = part + 1, place + 2
        else:
            break
    if place == last and data[last] != 0xFF:  # the file ends here, without a marker
        clean[length] = data[last]
        length += 1
    ends[part:] = length
    return WHOLE if part == num_parts - 1 else ENDS_EARLY, clean, ends, place


@compiled
def _bits(data, place, count):
    """`count` bits, at most 16, from bit `place` on."""
    byte = place >> 3
    word = np.int64(data[byte]) << 16 | np.int64(data[byte + 1]) << 8 | np.int64(data[byte + 2])
    return (word >> (24 - (place & 7) - count)) & ((1 << count) - 1)


@compiled
def _symbol(data, place, table, symbols):
    """(symbol, the bit after its code), the symbol -1 where no code begins like that."""
    bits = _bits(data, place, 16)
    found = table[bits >> (16 - LOOKAHEAD)]
    if found:
        return found & 255, place + (found >> 8)
    for length in range(LOOKAHEAD + 1, 17):
        code = bits >> (16 - length)
        if code <= table[LARGEST + length]:
            number = code + table[SHIFT + length]
            return np.int32(symbols[number & (MOST_SYMBOLS - 1)]), place + length
    return np.int32(-1), place


@compiled
def _dc(data, place, table, symbols):
    """The bit after a block's first coefficient; -1 where its code is wrong."""
    size, place = _symbol(data, place, table, symbols)
    return place + size if 0 <= size <= 15 else -1


@compiled
def _ac(data, place, table, symbols, first, last):
    """(the bit after a block's other coefficients or -1, which are not zero, blocks that end)."""
    nonzero, at = np.uint64(0), first
    while at <= last:
        symbol, place = _symbol(data, place, table, symbols)
        if symbol < 0:
            return -1, nonzero, 0
        run, size = symbol >> 4, symbol & 15
        if size == 0 and run < 15:
            return place + run, nonzero, (1 << run) + _bits(data, place, run)
        at += run
        if at > last:
            return -1, nonzero, 0
        if size:
            nonzero |= np.uint64(1) << np.uint64(at)
        at, place = at + 1, place + size
    return place, nonzero, 0


@compiled
def _refined(data, place, table, symbols, first, last, before, ended):
    """The same for one more bit of each coefficient; `before`: which were not zero already."""
    nonzero, at, blocks = before, first, ended
    while at <= last and blocks == 0:
        symbol, place = _symbol(data, place, table, symbols)
        run, size = symbol >> 4, symbol & 15
        if symbol < 0 or size > 1:
            return -1, nonzero, 0
        if size == 0 and run < 15:
            blocks = (1 << run) + _bits(data, place, run)
            place += run
            break
        place += size
        while at <= last:
            if before >> np.uint64(at) & np.uint64(1):
                place += 1
            elif run == 0:
                break
            else:
                run -= 1
            at += 1
        if at > last:
            return -1, nonzero, 0
        if size:
            nonzero |= np.uint64(1) << np.uint64(at)
        at += 1
    while at <= last:
        place += np.int64(before >> np.uint64(at) & np.uint64(1))
        at += 1
    return place, nonzero, blocks


@compiled
def follow(data, ends, num_units, per_part, blocks, tables, symbols, band, nonzero):
    """Follow the codes of a scan.

    Args:
        data, ends: of `scan_data`.
        num_units: minimum coded units of the scan; `per_part` of them between restart markers.
        blocks: int64 [B, 2], the rows in `tables` for the blocks of a unit, DC and AC.
        tables: int32 [8, TABLE_LENGTH], of `fill_table`.
        symbols: uint8 [8, 256].
        band: (first coefficient, last coefficient, whether they are refined, whether the scan is
            sequential).
        nonzero: uint64 [num_units], which coefficients of each block have been other than zero;
            for progressive scans beyond the first coefficient, and changed there.

    Returns:
        the status.
    """
    first, last, refines, sequential = band
    begin = most_left = 0
    for part in range(len(ends)):
        place, end, ended = begin * 8, ends[part] * 8, 0
        for unit in range(part * per_part, min((part + 1) * per_part, num_units)):
            for block in range(len(blocks)):
                dc, ac = blocks[block]
                if sequential:
                    place = _dc(data, place, tables[dc], symbols[dc])
                    if place >= 0:
                        place, _, run = _ac(data, place, tables[ac], symbols[ac], 1, 63)
                        place = place if run <= 1 else -1
                elif first == 0:
                    place = place + 1 if refines else _dc(data, place, tables[dc], symbols[dc])
                elif refines:
                    place, nonzero[unit], ended = _refined(
                        data, place, tables[ac], symbols[ac], first, last, nonzero[unit], ended
                    )
                elif ended == 0:
                    place, found, ended = _ac(data, place, tables[ac], symbols[ac], first, last)
                    nonzero[unit] |= found
                ended = max(ended - 1, 0)
                if place < 0:
                    return BAD_CODE
                if place > end:
                    return ENDS_EARLY
        most_left = max(most_left, (end - place) >> 3)
        begin = ends[part]
    return LEFT_OVER if most_left > JUNK_BYTES else WHOLE
