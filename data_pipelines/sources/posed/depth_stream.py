"""depth.bin of ScanNet++'s iPhone recordings: all depth maps of a scan in one file, in either of its two forms.

(a) one raw-deflate stream of float32 metres; (b) per frame a uint32 size and then either raw deflate of float32 metres or an
LZ4 block of uint16 millimetres (needs the package `lz4`; that branch was never met by its authors here).
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

from data_pipelines.manifest import PrepareError
from data_pipelines.sources.posed.decoding import MAX_PIXELS

_CHUNK = 1 << 20


def frame_offsets(file: Path) -> tuple[tuple[int, int], ...]:
    """(offset, size) of each frame of form (b); () when the file is of form (a)."""
    length, at, found = file.stat().st_size, 0, []
    with open(file, "rb") as data:
        while at + 4 <= length:
            data.seek(at)
            (size,) = struct.unpack("<I", data.read(4))
            if not 0 < size <= length - at - 4:
                return ()
            found.append((at + 4, size))
            at += 4 + size
    return tuple(found) if at == length else ()


class DepthStream:
    """Depth maps of one file by their number; form (a) is read forwards, and from its beginning to go back.

    Args:
      file: depth.bin.
      frames: how many it holds.
      aspect: width / height.

    Raises:
      PrepareError: data that is not `frames` maps of these proportions.
    """

    def __init__(self, file: Path, frames: int, aspect: float):
        self._file, self._offsets, self._frames = file, frame_offsets(file), frames
        if self._offsets:
            if len(self._offsets) < frames:
                raise PrepareError(f"{file} holds {len(self._offsets)} depth maps for {frames} frames.")
            pixels = self._own(0).size
        else:
            total = 0
            for piece in self._pieces():
                total += len(piece)
            if total % (4 * frames):
                raise PrepareError(f"{file} holds {total} bytes of depth, which {frames} frames do not divide.")
            pixels = total // 4 // frames
        if pixels > MAX_PIXELS:
            raise PrepareError(f"{file}: {pixels} depth pixels a frame; more than {MAX_PIXELS} are not read.")
        height = round((pixels / aspect) ** 0.5)
        if not height or pixels % height or abs(pixels / height**2 / aspect - 1) > 0.02:
            raise PrepareError(
                f"{file}: {pixels} depth pixels a frame do not have the pictures' proportions ({aspect:.3f})."
            )
        self.size = (pixels // height, height)
        self._reset()

    def read(self, number: int) -> np.ndarray:
        """Metres float32[h,w] of frame `number`.

        Raises:
          ValueError: the frame has another number of pixels than the first.
        """
        if self._offsets:
            return self._own(number).reshape(self.size[::-1])
        if number < self._next:
            self._reset()
        count = 4 * self.size[0] * self.size[1]
        while True:
            while len(self._buffer) < count:
                self._buffer += next(self._stream)
            frame, self._buffer = self._buffer[:count], self._buffer[count:]
            self._next += 1
            if self._next == number + 1:
                return np.frombuffer(frame, "<f4").reshape(self.size[::-1])

    def _reset(self) -> None:
        self._next, self._buffer, self._stream = 0, b"", self._pieces()

    def _pieces(self):
        """The stream of form (a), unpacked piece by piece."""
        unpack = zlib.decompressobj(-15)
        try:
            with open(self._file, "rb") as data:
                while chunk := data.read(_CHUNK):
                    yield unpack.decompress(chunk, _CHUNK)
                    while unpack.unconsumed_tail:  # a small file may unpack to anything: piece by piece
                        yield unpack.decompress(unpack.unconsumed_tail, _CHUNK)
            yield unpack.flush()
            if not unpack.eof:
                raise PrepareError(f"{self._file} is truncated: its depth stream has no end. Fetch it again.")
        except zlib.error as error:
            raise PrepareError(f"{self._file} is in no known form of depth.bin ({error}).") from error

    def _own(self, number: int) -> np.ndarray:
        offset, size = self._offsets[number]
        with open(self._file, "rb") as data:
            data.seek(offset)
            packed = data.read(size)
        try:
            return np.frombuffer(zlib.decompressobj(-15).decompress(packed, 4 * MAX_PIXELS), "<f4")
        except (zlib.error, ValueError):
            return _lz4(packed, self._file)


def _lz4(packed: bytes, file: Path) -> np.ndarray:
    try:
        import lz4.block
    except ImportError as error:
        raise PrepareError(f"{file} is packed with LZ4: python -m pip install lz4, then run this again.") from error
    try:
        data = lz4.block.decompress(packed, uncompressed_size=2 * 256 * 192)
    except lz4.block.LZ4BlockError as error:
        raise PrepareError(f"{file}: a frame is neither deflate nor LZ4 of 256 x 192 ({error}).") from error
    return np.frombuffer(data, "<u2").astype(np.float32) / 1000
