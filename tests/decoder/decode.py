#!/usr/bin/env python3
"""Decode a Redwind archive without Redwind. Written from docs/format.md alone.

    python3 -m pip install zstandard
    python3 tests/decoder/decode.py ARCHIVE_DIR                      list what can be restored
    python3 tests/decoder/decode.py ARCHIVE_DIR OUTPUT_DIR           rebuild the newest state
    python3 tests/decoder/decode.py ARCHIVE_DIR OUTPUT_DIR --offset 12345
    python3 tests/decoder/decode.py ARCHIVE_DIR OUTPUT_DIR --time 2026-11-20T14:03:07.25Z
    python3 tests/decoder/decode.py ARCHIVE_DIR OUTPUT_DIR --identity age.txt      an encrypted archive

An encrypted archive takes the package `cryptography` too. Without an identity it can be listed.

ARCHIVE_DIR is a source's folder (it holds the object `archive`), from a `file://` store or copied out of
a bucket. OUTPUT_DIR must not exist; it becomes the directory of a server that is started with
`appendonly yes` and `--dir OUTPUT_DIR`. `--history ULID` chooses one where several hold the point.

Everything that is read is checked; what is damaged is named, and nothing is written then (exit 4). A
point that cannot be restored is refused (exit 3).
"""

import argparse
import base64
import hmac
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
KEY_MAX = 64 << 10  # bytes of a key object


class Damage(Exception):
    """An object is missing, or is not what it says it is."""


class Refused(Exception):
    """The archive is sound but does not hold the point asked for, or takes a key that is not at hand."""


class Locked(Refused):
    """What was to be read takes a key that is wrapped to others."""


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
        self.encrypted = False
        self.keys = None  # what an identity opens

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


def document(store, name, kind, signed=False):
    raw = store.get(name)
    line, newline, body = raw.partition(b"\n")
    words = line.split(b" ")
    expect(newline and len(words) == (7 if signed else 5) and words[0] == b"redwind", name, "not a document")
    expect(words[1] == kind.encode(), name, f"not a document of kind {kind}")
    expect(words[2] == b"1", name, "of a version that this decoder does not know")
    expect(words[3] == str(len(body)).encode(), name, "length differs")
    crc = zlib.crc32(body, zlib.crc32(line[: line.rindex(b" ")]))
    expect(words[-1] == b"%08x" % crc, name, "checksum differs")
    if signed and store.keys:
        macs = store.keys.document_macs(ulid_bytes(words[4].decode()))
        message = name.encode() + b"\n" + b" ".join(words[:5]) + b"\n" + body
        expect(any(words[5] == mac(message).hex().encode() for mac in macs), name, "forged")
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


# Keys


def hkdf(data, salt, info):
    """HKDF-SHA256 for 32 bytes."""
    extracted = hmac.digest(salt or bytes(32), data, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")


def bech32(text):
    """The bytes in an identity's text; its checksum is not looked at."""
    digits = ["qpzry9x8gf2tvdw0s3jn54khce6mua7l".index(letter) for letter in text.lower().rpartition("1")[2]]
    number = 0
    for digit in digits[:-6]:
        number = number << 5 | digit
    return (number >> len(digits[:-6]) * 5 % 8).to_bytes(len(digits[:-6]) * 5 // 8, "big")


def age_open(raw, secret):
    """What an age file holds (age-encryption.org/v1, one chunk); None if it is wrapped to others.

    ValueError says that it is no age file, or not as it was wrapped."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    def unbase64(text):
        return base64.b64decode(text + b"=" * (-len(text) % 4))

    private = X25519PrivateKey.from_private_bytes(secret)
    public = private.public_key().public_bytes_raw()
    header, found, _ = raw.partition(b"\n---")
    if not found or not raw.startswith(b"age-encryption.org/v1\n"):
        raise ValueError("not an age file")
    for stanza in header.split(b"\n-> ")[1:]:
        arguments, *body = stanza.split(b"\n")
        kind, *shares = arguments.split(b" ")
        if kind != b"X25519" or len(shares) != 1:
            continue
        share = unbase64(shares[0])
        shared = private.exchange(X25519PublicKey.from_public_bytes(share))
        wrapping = hkdf(shared, share + public, b"age-encryption.org/v1/X25519")
        try:
            file_key = ChaCha20Poly1305(wrapping).decrypt(bytes(12), unbase64(b"".join(body)), None)
        except InvalidTag:
            continue
        payload = raw[raw.index(b"\n", len(header) + 1) + 1 :]
        try:
            key = hkdf(file_key, payload[:16], b"payload")
            return ChaCha20Poly1305(key).decrypt(bytes(11) + b"\x01", payload[16:], None)
        except InvalidTag:
            raise ValueError("not what was wrapped") from None
    return None


class Keys:
    """The data keys that an identity file opens.

    What is no sound wrapping is passed over: it is missed only if its epoch has no other one. Of several
    data keys of an epoch, an object's is the one that fits."""

    def __init__(self, store, archive, identity_file):
        with open(identity_file, encoding="ascii") as file:
            secrets = [bech32(line.strip()) for line in file if line.startswith("AGE-SECRET-KEY-1")]
        self.archive = ulid_bytes(archive)
        self.data = {}
        self.locked = set()
        for found in matches(KEY, store.names("key")):
            name, epoch = f"key/{found.group()}", ulid_bytes(found[1])
            raw = store.get(name) if store.size(name) <= KEY_MAX else b""
            if f"{zlib.crc32(raw):08x}" != found[2]:
                continue
            prefix = f"redwind-key 1 {archive} {found[1]} "
            try:
                texts = [text for text in (age_open(raw, secret) for secret in secrets) if text is not None]
                if not texts:
                    self.locked.add(epoch)
                for text in texts:
                    line = re.fullmatch(rf"{prefix}([0-9a-f]{{64}})\n", text.decode("ascii"))
                    if line:
                        self.data.setdefault(epoch, []).append(bytes.fromhex(line[1]))
            except ValueError:
                continue

    def derive(self, epoch, salt, info):
        """A key for each data key of the epoch."""
        if epoch in self.data:
            return [hkdf(data, salt, info) for data in self.data[epoch]]
        if epoch in self.locked:
            raise Locked("a key is wrapped to others than this identity")
        raise Damage("a key is missing: no object of its epoch below key/ is sound")

    def document_macs(self, epoch):
        keys = self.derive(epoch, b"", b"redwind v1 document mac" + self.archive)
        return [lambda message, key=key: hmac.digest(key, message, "sha256") for key in keys]

    def segment_macs(self, epoch, message):
        keys = self.derive(epoch, b"", b"redwind v1 segment mac" + self.archive)
        return [hmac.digest(key, message, "sha256") for key in keys]


def unseal(name, keys, number, clear, sealed):
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    for key in keys:
        try:
            return AESGCM(key).decrypt(struct.pack("<QI", number, 0), sealed, clear)
        except InvalidTag:
            continue
    raise Damage(f"{name}: forged")


@dataclass
class Cipher:
    keys: list  # one of them
    core: bytes  # of the segment's header


@dataclass
class Block:
    start: int
    data: bytes | None  # None if it is encrypted and there is no key
    marks: list  # (offset after the bytes read, instant)


@dataclass
class Segment:
    predecessor: bytes | None  # its checksum, and its MAC if there is one
    blocks: list
    until: int
    named: bytes  # as its successor names it


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


def read_block(name, raw, at, start, number, sealed, cipher):
    expect(at + 48 <= len(raw) and raw[at : at + 4] == b"BLK1", name, "a block is broken")
    length, stored, marks_length, codec, state_length, zero = struct.unpack_from("<IIIBBH", raw, at + 4)
    first, last, _, _, crc = struct.unpack_from("<QQIII", raw, at + 20)
    expect(0 < length <= BLOCK_MAX and codec in (0, 1) and state_length <= 46 and zero == 0, name, "a block is broken")
    body = at + 48 + state_length
    end = body + marks_length + stored + (16 if sealed else 0)
    expect(end <= len(raw), name, "a block is cut off")
    expect(zlib.crc32(raw[at + 48 : end], zlib.crc32(raw[at : at + 44])) == crc, name, "a block's checksum differs")
    if sealed and not cipher:
        return Block(start, None, [(start, first), (start + length, last)]), end
    content = raw[body:end]
    if sealed:
        clear = cipher.core + raw[at : at + 44] + raw[at + 48 : body]
        content = unseal(name, cipher.keys, number, clear, content)
    data = zstd_frame(name, content[marks_length:], length) if codec else content[marks_length:]
    expect(len(data) == length, name, "a block's length differs")
    marks = read_marks(name, content[:marks_length], start, length, first)
    expect(marks[-1][1] == last, name, "a block's last mark differs")
    return Block(start, data, marks), end


def read_segment(store, archive, ref):
    name, raw = ref.name, store.get(ref.name)
    trailer = 96 if store.encrypted else 48
    checked(name, raw, b"RWSEGv1\n", 77 + trailer)
    header_length, flags = struct.unpack_from("<HH", raw, 8)
    expect(flags == store.encrypted, name, "flags that this decoder does not know, or not encrypted as the archive is")
    tenure = 65 if store.encrypted else 33  # its length, the checksum included
    expect(77 + tenure < header_length <= len(raw) - trailer, name, "header's length")
    header = raw[:header_length]
    expect(zlib.crc32(header[:-4]) == struct.unpack("<I", header[-4:])[0], name, "header's checksum differs")
    expect(header[12:28] == ulid_bytes(archive), name, "of another archive")
    expect(header[28:44] == ulid_bytes(ref.page.history), name, "of another history")
    start, _, read_empty = struct.unpack_from("<QQQ", header, 44)
    core = header[: header_length - tenure]
    term, has_predecessor = struct.unpack_from("<QB", header, len(core) + 16)
    predecessor = header[len(core) + 25 : -4]
    expect(term == ref.page.term and start == ref.start, name, "name and header differ")
    expect(read_empty == (ref.page.instant if ref.page.late else 0), name, "header and page differ")
    cipher = segment_cipher(store, name, raw, core) if store.encrypted and store.keys else None

    blocks, at, offset, now = [], header_length, start, 0
    while at < len(raw) - trailer:
        block, at = read_block(name, raw[: len(raw) - trailer], at, offset, len(blocks), store.encrypted, cipher)
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
    named = raw[-4:] + (raw[-36:-4] if store.encrypted else b"")
    return Segment(predecessor if has_predecessor else None, blocks, until, named)


def segment_cipher(store, name, raw, core):
    """The key of a segment that is authentic."""
    macs = store.keys.segment_macs(raw[-52:-36], raw[:-36])
    expect(any(hmac.compare_digest(mac, raw[-36:-4]) for mac in macs), name, "forged")
    epoch, salt = core[-48:-32], core[-32:]
    return Cipher(store.keys.derive(epoch, salt, b"redwind v1 segment" + core[12:52]), core)


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
        head = 112 if store.encrypted else 64
        checked(name, raw, b"RWCHKv1\n", head + 4)
        expect(raw[8:24] == ulid_bytes(archive), name, "of another archive")
        expect(raw[24:40] == ulid_bytes(snapshot["snapshot"]), name, "of another snapshot")
        stored_number, flags, length, zeroes = struct.unpack_from("<IIQQ", raw, 40)
        expect(stored_number == number and flags == store.encrypted and zeroes == 0, name, "header is broken")
        same = (len(raw), length, struct.unpack("<I", raw[-4:])[0])
        expect(same == (entry["stored"], entry["raw"], entry["crc32"]), name, "differs from the manifest")
        payload = raw[head:-4]
        if store.encrypted:
            keys = store.keys.derive(raw[64:80], raw[80:112], b"redwind v1 chunk" + raw[8:44])
            payload = unseal(name, keys, 0, raw[:head], payload)
        data = zstd_frame(name, payload, length)
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


KEY = re.compile(rf"({ULID})-([0-9a-f]{{8}})")
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
    body = document(store, snapshot.name, "snapshot", signed=store.encrypted)
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
    def __init__(self, folder, identity_file=None):
        self.store = Store(folder)
        marker = document(self.store, "archive", "archive")
        self.id = marker["archive"]
        self.store.encrypted = marker.get("encrypted", False)
        if identity_file:
            if not self.store.encrypted:
                raise Refused("not encrypted, so that nothing proves who wrote it: to read it all the same, leave out --identity")
            self.store.keys = Keys(self.store, self.id, identity_file)
        pages = pages_of(self.store)
        written = {page.history: page.term for page in pages}
        starts = []
        self.locked = []  # histories
        for name in self.store.names("history"):
            if not re.fullmatch(ULID, name):
                continue
            try:
                start = document(self.store, f"history/{name}", "history", signed=self.store.encrypted)
            except Locked:
                self.locked.append(name)
                continue
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
            try:
                self.windows += windows_of(self.store, self.id, history, of_history, closed.get(history))
            except Locked:
                self.locked.append(history)


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
    if archive.locked and options.history not in {w.history for w in archive.windows}:
        raise Refused(f"history {archive.locked[-1]} is locked to this identity: choose another with --history")
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
    allowed, term = [], None  # those that the next segment may name
    for ref in window.run:
        if ref.end < first_offset:
            continue
        segment = read_segment(archive.store, archive.id, ref)
        if allowed:
            # Empty segments that an older term put last may be unknown to the newer one.
            known = allowed if ref.page.term != term else allowed[-1:]
            expect(segment.predecessor in known, ref.name, "does not follow the segment before it")
        allowed = (allowed if ref.start == ref.end else []) + [segment.named]
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
    if archive.store.encrypted and not archive.store.keys:
        raise Refused("the archive is encrypted: give --identity FILE")
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
    for history in archive.locked:
        print(f"locked {history}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", metavar="ARCHIVE_DIR")
    parser.add_argument("output", metavar="OUTPUT_DIR", nargs="?")
    point = parser.add_mutually_exclusive_group()
    point.add_argument("--offset", type=int)
    point.add_argument("--time", type=instant)
    parser.add_argument("--history")
    parser.add_argument("--identity", metavar="FILE", help="of age, for an encrypted archive")
    options = parser.parse_args()
    if options.output and os.path.exists(options.output):
        parser.error(f"{options.output} exists already")
    try:
        archive = Archive(options.archive, options.identity)
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
