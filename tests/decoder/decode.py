#!/usr/bin/env python3
"""Decode a Redwind archive without Redwind. Written from docs/format.md alone.

    python3 -m pip install zstandard
    python3 tests/decoder/decode.py ARCHIVE_DIR                      list what can be restored
    python3 tests/decoder/decode.py ARCHIVE_DIR OUTPUT_DIR           rebuild the newest state
    python3 tests/decoder/decode.py ARCHIVE_DIR OUTPUT_DIR --offset 12345
    python3 tests/decoder/decode.py ARCHIVE_DIR OUTPUT_DIR --time 2026-11-20T14:03:07.25Z

ARCHIVE_DIR is a source's folder (it holds the object `archive`), from a `file://` store or copied out of
a bucket. OUTPUT_DIR must not exist; it becomes the directory of a server that is started with
`appendonly yes` and `--dir OUTPUT_DIR`. `--history ULID` chooses one where several hold the point.

Everything that is read is checked; what is damaged is named, and nothing is written then (exit 4). A
point that cannot be restored is refused (exit 3).
"""

import argparse
import json
import os
import re
import shutil
import struct
import sys
import zlib
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

import zstandard

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
ULID = "[0-9A-HJKMNP-TV-Z]{26}"
BLOCK_MAX = 16 << 20
UNDER_WAY = 8  # segments that a writer puts at once, at most


class Damage(Exception):
    """An object is missing, or is not what it says it is."""


class Refused(Exception):
    """The archive is sound but does not hold the point asked for."""


def ulid_bytes(text):
    number = 0
    for letter in text:
        number = number * 32 + "0123456789ABCDEFGHJKMNPQRSTVWXYZ".index(letter)
    return number.to_bytes(16, "big")


def instant(text):
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text} has no time zone; add Z for UTC")
    return (moment - EPOCH) // timedelta(microseconds=1)


def show(micros):
    return (EPOCH + timedelta(microseconds=micros)).isoformat(timespec="microseconds").replace("+00:00", "Z")


def expect(condition, name, what):
    if not condition:
        raise Damage(f"{name}: {what}")


# Objects


class Store:
    """The objects of one source, as files."""

    def __init__(self, folder):
        self.folder = folder

    def names(self, prefix):
        path = os.path.join(self.folder, prefix)
        return sorted(os.listdir(path)) if os.path.isdir(path) else []

    def size(self, name):
        path = os.path.join(self.folder, name)
        return os.path.getsize(path) if os.path.isfile(path) else None

    def get(self, name):
        try:
            with open(os.path.join(self.folder, name), "rb") as file:
                return file.read()
        except FileNotFoundError:
            raise Damage(f"{name}: missing") from None


def document(store, name, kind):
    raw = store.get(name)
    line, newline, body = raw.partition(b"\n")
    words = line.split(b" ")
    expect(newline and len(words) == 5 and words[0] == b"redwind", name, "not a document")
    expect(words[1] == kind.encode(), name, f"not a document of kind {kind}")
    expect(words[2] == b"1", name, "of a version that this decoder does not know")
    expect(words[3] == str(len(body)).encode(), name, "length differs")
    crc = zlib.crc32(body, zlib.crc32(line[: line.rindex(b" ")]))
    expect(words[4] == b"%08x" % crc, name, "checksum differs")
    return json.loads(body)


def checked(name, raw, magic, least):
    expect(len(raw) >= least, name, "too short")
    expect(raw[: len(magic)] == magic, name, "other magic")
    expect(zlib.crc32(raw[:-4]) == struct.unpack("<I", raw[-4:])[0], name, "checksum differs")


def zstd_frame(name, payload, length):
    reader = zstandard.ZstdDecompressor().decompressobj()
    try:
        out = reader.decompress(payload)
    except zstandard.ZstdError as error:
        raise Damage(f"{name}: {error}") from None
    expect(reader.eof and not reader.unused_data, name, "not exactly one zstd frame")
    expect(len(out) == length, name, "decompresses to another length")
    return out


@dataclass
class Block:
    start: int
    data: bytes
    marks: list  # (offset after the bytes read, instant)


@dataclass
class Segment:
    predecessor: int | None
    blocks: list
    until: int
    checksum: int


def leb128(name, raw, at):
    value = shift = 0
    while True:
        expect(at < len(raw) and shift < 64, name, "marks are broken")
        value |= (raw[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not raw[at - 1] & 0x80:
            return value, at


def read_marks(name, raw, start, length, first):
    marks, at, offset, now = [], 0, start, first
    while at < len(raw):
        count, at = leb128(name, raw, at)
        pause, at = leb128(name, raw, at)
        expect(marks or pause == 0, name, "the first mark does not stand at the block's instant")
        offset, now = offset + count, now + pause
        marks.append((offset, now))
    expect(offset == start + length, name, "marks do not add up to the block")
    return marks


def read_block(name, raw, at, start):
    expect(at + 32 <= len(raw) and raw[at : at + 4] == b"BLK1", name, "a block is broken")
    length, stored, marks_length, codec, first, crc = struct.unpack_from("<IIIIQI", raw, at + 4)
    expect(0 < length <= BLOCK_MAX and codec in (0, 1), name, "a block is broken")
    body, end = at + 32, at + 32 + marks_length + stored
    expect(end <= len(raw), name, "a block is cut off")
    expect(zlib.crc32(raw[body:end], zlib.crc32(raw[at : at + 28])) == crc, name, "a block's checksum differs")
    payload = raw[body + marks_length : end]
    data = zstd_frame(name, payload, length) if codec else payload
    expect(len(data) == length, name, "a block's length differs")
    return Block(start, data, read_marks(name, raw[body : body + marks_length], start, length, first)), end


def read_segment(store, archive, ref):
    name, raw = ref.name, store.get(ref.name)
    checked(name, raw, b"RWSEGv1\n", 10 + 48)
    header_length, flags = struct.unpack_from("<HH", raw, 8)
    expect(flags == 0, name, "flags that this decoder does not know")
    expect(106 < header_length <= len(raw) - 48, name, "header's length")
    header = raw[:header_length]
    expect(zlib.crc32(header[:-4]) == struct.unpack("<I", header[-4:])[0], name, "header's checksum differs")
    expect(header[12:28] == ulid_bytes(archive), name, "of another archive")
    expect(header[44:60] == ulid_bytes(ref.page.history), name, "of another history")
    term, start, has_predecessor, predecessor = struct.unpack_from("<QQBI", header, 60)
    expect(term == ref.page.term and start == ref.start, name, "name and header differ")
    (read_empty,) = struct.unpack_from("<Q", header, 89)
    expect(read_empty == (ref.page.instant if ref.page.late else 0), name, "header and page differ")

    blocks, at, offset, now = [], header_length, start, 0
    while at < len(raw) - 48:
        block, at = read_block(name, raw[: len(raw) - 48], at, offset)
        expect(block.marks[0][1] >= now, name, "time goes back")
        offset, now = block.marks[-1]
        blocks.append(block)
    magic, count, end, until, _, _, zero = struct.unpack_from("<4sIQQQQI", raw, at)
    expect(magic == b"END1" and zero == 0 and count == len(blocks), name, "trailer is broken")
    expect(end == offset == ref.end and until >= now, name, "trailer differs")
    if blocks:
        expect(blocks[0].marks[0][1] == ref.instant, name, "name and first mark differ")
    else:
        expect(until == ref.instant, name, "name and trailer differ")
    checksum = struct.unpack("<I", raw[-4:])[0]
    return Segment(predecessor if has_predecessor else None, blocks, until, checksum)


def crc64_table():
    """The CRC-64 of Jones, byte by byte; reflected, so the polynomial is 0xAD93D23594C935A9 reversed."""
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x95AC9329AC4BC9B5 if byte & 1 else 0)
        table.append(byte)
    return table


def read_rdb(store, archive, snapshot):
    """The pieces of the RDB, in order."""
    crc, held, total = 0, b"", 0  # held: the last eight bytes, which may be the checksum
    table = crc64_table()
    for number, entry in enumerate(snapshot["chunks"]):
        name = f"chunk/{snapshot['snapshot']}/{number:08}"
        raw = store.get(name)
        checked(name, raw, b"RWCHKv1\n", 68)
        expect(raw[8:24] == ulid_bytes(archive), name, "of another archive")
        expect(raw[24:40] == ulid_bytes(snapshot["snapshot"]), name, "of another snapshot")
        stored_number, zero, length, zeroes = struct.unpack_from("<IIQQ", raw, 40)
        expect(stored_number == number and zero == zeroes == 0, name, "header is broken")
        same = (len(raw), length, struct.unpack("<I", raw[-4:])[0])
        expect(same == (entry["stored"], entry["raw"], entry["crc32"]), name, "differs from the manifest")
        data = zstd_frame(name, raw[64:-4], length)
        total += length
        held += data
        body, held = held[:-8], held[-8:]
        if snapshot["rdb_crc64"] is not None:
            for byte in body:
                crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
        yield data
    whole = f"chunk/{snapshot['snapshot']}"
    expect(total == snapshot["rdb_bytes"], whole, "the RDB's length differs from the manifest")
    if snapshot["rdb_crc64"] is not None:
        expect(held == struct.pack("<Q", crc), whole, "the RDB's own checksum differs")
        expect(snapshot["rdb_crc64"] == f"{crc:016x}", whole, "the RDB's checksum differs from the manifest")


# What there is


@dataclass(frozen=True)
class Page:
    folder: str
    term: int
    number: int
    history: str
    start: int
    instant: int
    late: bool


@dataclass
class Ref:
    """A segment, as far as names tell."""

    page: Page
    name: str
    start: int
    end: int
    instant: int


PAGE = re.compile(rf"(\d{{10}})-(\d{{6}})-({ULID})-(\d{{19}})-(\d{{16}})-(live|late)")
SEGMENT = re.compile(r"(\d{19})-(\d{19})-(\d{16})")
MANIFEST = re.compile(rf"({ULID})-(\d{{19}})-(\d{{16}})-({ULID})")


def matches(pattern, names):
    return [found for found in map(pattern.fullmatch, names) if found]


def pages_of(store):
    pages = []
    for found in matches(PAGE, store.names("log")):
        term, number, history, start, moment, kind = found.groups()
        pages.append(Page(found.group(), int(term), int(number), history, int(start), int(moment), kind == "late"))
    return sorted(pages, key=lambda page: (page.term, page.number))


def segments_of(store, pages, closed_at):
    """The segments of a history that count (docs/format.md), in order."""
    counting = []
    for page in pages:
        newer = [newer.start for newer in pages if newer.term > page.term]
        limit = min(newer + ([] if closed_at is None else [closed_at]), default=None)
        refs = []
        for found in matches(SEGMENT, store.names(f"log/{page.folder}")):
            start, end, moment = map(int, found.groups())
            if limit is None or end <= limit:
                refs.append(Ref(page, f"log/{page.folder}/{found.group()}", start, end, moment))
        if page is pages[-1] and limit is None:
            joined = joined_of(page.start, refs)
            refs = joined if len(refs) - len(joined) < UNDER_WAY else refs
        counting += refs
    return counting


def joined_of(offset, refs):
    """Those before the first that does not follow."""
    joined = []
    for ref in refs:
        if ref.start != offset:
            break
        joined.append(ref)
        offset = ref.end
    return joined


def runs_of(segments):
    """Stretches without a hole."""
    runs = []
    for ref in segments:
        if runs and runs[-1][-1].end == ref.start:
            runs[-1].append(ref)
        else:
            runs.append([ref])
    return runs


@dataclass
class Snapshot:
    offset: int
    time: int
    name: str


def snapshots_of(store, history):
    found = []
    for match in matches(MANIFEST, store.names("snapshot")):
        of, offset, time, _ = match.groups()
        if of == history:
            found.append(Snapshot(int(offset), int(time), f"snapshot/{match.group()}"))
    return sorted(found, key=lambda snapshot: (snapshot.offset, snapshot.time))


def manifest(store, archive, history, snapshot):
    body = document(store, snapshot.name, "snapshot")
    position = {"history": history, "offset": snapshot.offset}
    expect(body["archive"] == archive, snapshot.name, "of another archive")
    expect(body["position"] == position and instant(body["time"]) == snapshot.time, snapshot.name, "differs from its name")
    expect(snapshot.name.endswith(body["snapshot"]), snapshot.name, "differs from its name")
    return body


@dataclass
class Blur:
    start: int  # times after this one
    end: int  # and before this one are not known


@dataclass
class Window:
    history: str
    run: list
    snapshots: list
    start: int
    end: int
    since: int
    until: int
    blurs: list


def blurs_of(store, archive, run):
    """Late pages: what they hold was sent between the instant in their name and their end's."""
    last = {ref.page: ref for ref in run if ref.page.late}
    blurs = []
    for page, ref in last.items():
        end = read_segment(store, archive, ref).until
        if blurs and blurs[-1].start == page.instant:
            blurs[-1].end = end
        else:
            blurs.append(Blur(page.instant, end))
    return blurs


def windows_of(store, archive, history, pages, closed_at):
    windows = []
    snapshots = snapshots_of(store, history)
    for run in runs_of(segments_of(store, pages, closed_at)):
        base = [snapshot for snapshot in snapshots if run[0].start <= snapshot.offset <= run[-1].end]
        if base:
            until = max(read_segment(store, archive, run[-1]).until, base[0].time)
            blurs = blurs_of(store, archive, run)
            windows.append(Window(history, run, base, base[0].offset, run[-1].end, base[0].time, until, blurs))
    for alone in snapshots:
        if not any(window.start <= alone.offset <= window.end for window in windows):
            windows.append(Window(history, [], [alone], alone.offset, alone.offset, alone.time, alone.time, []))
    return sorted(windows, key=lambda window: window.start)


class Archive:
    def __init__(self, folder):
        self.store = Store(folder)
        self.id = document(self.store, "archive", "archive")["archive"]
        pages = pages_of(self.store)
        written = {page.history: page.term for page in pages}
        starts = []
        for name in self.store.names("history"):
            if re.fullmatch(ULID, name):
                start = document(self.store, f"history/{name}", "history")
                expect(start["history"] == name, f"history/{name}", "differs from its name")
                starts.append(start)
        starts.sort(key=lambda start: (written.get(start["history"], start["term"]), start["history"]))
        closed = {}
        for start in sorted(starts, key=lambda start: (start["term"], start["history"])):
            before = start["predecessor"]
            if before and start["term"] >= written.get(before["history"], 0):
                closed[before["history"]] = before["offset"]
        self.windows = []
        for history in (start["history"] for start in starts):
            of_history = [page for page in pages if page.history == history]
            self.windows += windows_of(self.store, self.id, history, of_history, closed.get(history))


# Restoring


class Scanner:
    """Finds where records end: after a command, or after the EXEC of its MULTI."""

    def __init__(self, offset):
        self.offset = offset
        self.buffer = bytearray()
        self.boundary = offset
        self.arguments = None  # still to come of the open command
        self.name = None
        self.in_transaction = False

    def feed(self, data):
        self.buffer += data
        at = 0
        while True:
            after = self.step(at)
            if after is None:
                break
            at = after
        self.offset += at
        del self.buffer[:at]

    def step(self, at):
        """One header line, or one argument with its header line; None if it is not all there yet."""
        line = self.buffer.find(b"\r\n", at)
        if line < 0:
            return None
        kind, number = self.buffer[at : at + 1], bytes(self.buffer[at + 1 : line])
        if kind != (b"*" if self.arguments is None else b"$") or not number.isdigit():
            raise Damage(f"the stream at offset {self.offset + at} is not a command")
        if self.arguments is None:
            self.arguments, self.name = int(number), None
            return line + 2
        end = line + 2 + int(number)
        if len(self.buffer) < end + 2:
            return None
        if self.name is None:
            self.name = bytes(self.buffer[line + 2 : end]).upper()
        self.arguments -= 1
        if self.arguments == 0:
            self.command_ends(end + 2)
        return end + 2

    def command_ends(self, at):
        if self.name == b"MULTI":
            self.in_transaction = True
        elif self.name in (b"EXEC", b"DISCARD"):
            self.in_transaction = False
        self.arguments = None
        if not self.in_transaction:
            self.boundary = self.offset + at


def choose(archive, options):
    """The window, and where its stream has to stop at the latest: an offset, or an instant."""
    windows = [w for w in archive.windows if options.history in (None, w.history)]
    if options.offset is not None:
        windows = [w for w in windows if w.start <= options.offset <= w.end]
    elif options.time is not None:
        windows = [w for w in windows if w.since <= options.time <= w.until]
        for blur in (blur for w in windows for blur in w.blurs):
            if blur.start < options.time < blur.end:
                raise Refused(f"times between {show(blur.start)} and {show(blur.end)} are not known")
    else:
        windows = windows[-1:]
    if not windows:
        raise Refused("no window holds this point")
    if len(windows) > 1:
        raise Refused("several histories hold this point: choose one with --history")
    return windows[0]


def segments_on_the_way(archive, window, first_offset):
    """The window's segments from that offset on, read and chained."""
    allowed, term = [], None  # the checksums that the next segment may name
    for ref in window.run:
        if ref.end < first_offset:
            continue
        segment = read_segment(archive.store, archive.id, ref)
        if allowed:
            # Empty segments that an older term put last may be unknown to the newer one.
            known = allowed if ref.page.term != term else allowed[-1:]
            expect(segment.predecessor in known, ref.name, "does not follow the segment before it")
        allowed = (allowed if ref.start == ref.end else []) + [segment.checksum]
        term = ref.page.term
        yield segment


def write_stream(archive, window, snapshot, options, out):
    """Write the stream from the snapshot on; answers the offset after the last whole record."""
    scanner = Scanner(snapshot.offset)
    for segment in segments_on_the_way(archive, window, snapshot.offset):
        for block in segment.blocks:
            limit = block.marks[-1][0]
            if options.offset is not None:
                limit = min(limit, options.offset)
            if options.time is not None:
                limit = max((end for end, moment in block.marks if moment <= options.time), default=block.start)
            begin = max(block.start, snapshot.offset)
            if begin < limit:
                piece = block.data[begin - block.start : limit - block.start]
                out.write(piece)
                scanner.feed(piece)
            if limit < block.marks[-1][0]:
                return scanner.boundary
    return scanner.boundary


def base_of(archive, window, options):
    """The newest snapshot at or below the point."""
    if options.offset is not None:
        usable = [s for s in window.snapshots if s.offset <= options.offset]
    elif options.time is not None:
        usable = [s for s in window.snapshots if s.time <= options.time]
    else:
        usable = window.snapshots
    return usable[-1]


def restore(archive, options):
    window = choose(archive, options)
    snapshot = base_of(archive, window, options)
    body = manifest(archive.store, archive.id, window.history, snapshot)
    partial = options.output.rstrip("/") + ".partial"
    folder = os.path.join(partial, "appendonlydir")
    os.makedirs(folder)
    try:
        with open(os.path.join(folder, "appendonly.aof.1.base.rdb"), "wb") as out:
            for piece in read_rdb(archive.store, archive.id, body):
                out.write(piece)
        with open(os.path.join(folder, "appendonly.aof.1.incr.aof"), "wb") as out:
            if body["stream_database"] is not None:
                number = str(body["stream_database"]).encode()
                out.write(b"*2\r\n$6\r\nSELECT\r\n$%d\r\n%s\r\n" % (len(number), number))
            before = out.tell()
            cut = write_stream(archive, window, snapshot, options, out)
            out.truncate(before + cut - snapshot.offset)
        with open(os.path.join(folder, "appendonly.aof.manifest"), "w", encoding="ascii") as out:
            out.write("file appendonly.aof.1.base.rdb seq 1 type b\n")
            out.write("file appendonly.aof.1.incr.aof seq 1 type i\n")
        os.rename(partial, options.output)
    except BaseException:
        shutil.rmtree(partial)
        raise
    print(f"restored {window.history}:{cut} from the snapshot at {snapshot.offset}")


def list_windows(archive):
    for window in archive.windows:
        print(f"window {window.history} {window.start}..{window.end} {show(window.since)}..{show(window.until)}")
        for snapshot in window.snapshots:
            print(f"  snapshot {snapshot.offset} {show(snapshot.time)}")
        for blur in window.blurs:
            print(f"  blur {show(blur.start)}..{show(blur.end)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", metavar="ARCHIVE_DIR")
    parser.add_argument("output", metavar="OUTPUT_DIR", nargs="?")
    point = parser.add_mutually_exclusive_group()
    point.add_argument("--offset", type=int)
    point.add_argument("--time", type=instant)
    parser.add_argument("--history")
    options = parser.parse_args()
    if options.output and os.path.exists(options.output):
        parser.error(f"{options.output} exists already")
    try:
        archive = Archive(options.archive)
        list_windows(archive)
        if options.output:
            restore(archive, options)
    except Refused as error:
        print(f"refused: {error}", file=sys.stderr)
        return 3
    except Damage as error:
        print(f"damaged: {error}", file=sys.stderr)
        return 4
    return 0


if __name__ == "__main__":
    sys.exit(main())
