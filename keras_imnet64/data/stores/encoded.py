"""Encoded stores: JPEG or PNG images of any size, indexed in place and read in any order.

An encoded store is a folder with `files.npy` (names of files below `root`), `pictures.npy`
(RECORD [N], where each image lies and how large it is), `hashes.npy` (uint8 [N, 32], SHA-256 of
each image's bytes), `moments.npy` (float64 [N, 6]), `labels.npy`, `converted.bin` and `meta.json`.
Images are not copied, except those that TensorFlow decodes differently from Pillow:
`converted.bin` holds a PNG of each. If the source cannot be read in place, such as Parquet,
`converted.bin` holds all images. `indexing` writes such a store, `opening` opens it.
"""

import contextlib
import hashlib
import os
import shlex
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from keras_imnet64.core.errors import RunFailed, UserError
from keras_imnet64.core.invocation import program_name
from keras_imnet64.core.paths import default_data_dir, native
from keras_imnet64.data.images.reading import UPRIGHT, report_image_errors
from keras_imnet64.data.stores.base import PACKED, StoreBase
from keras_imnet64.data.stores.files import damaged, map_array, read_array
from keras_imnet64.records import EncodedStoreMeta

CONVERTED = "converted.bin"
IN_CONVERTED = -1  # file numbers from here down are of images that CONVERTED holds
HASH_BYTES = 32
RECORD = np.dtype(
    [
        # p, a position in files.npy; IN_CONVERTED - 1 - p, if CONVERTED holds what was there;
        # IN_CONVERTED itself in stores of earlier versions, which do not know where it was.
        ("file", "<i4"),
        ("offset", "<i8"),  # of its bytes in that file
        ("length", "<i8"),
        ("height", "<i4"),  # in pixels, as decoded
        ("width", "<i4"),
        ("orientation", "<i4"),  # of EXIF, see `reading.UPRIGHT`
    ]
)
MAX_NAME_BYTES = 4096  # of a path below the root, the limit of Linux
MAX_RECENT = 4096  # about the number of images that a pipeline reads ahead
FIRST_TRANSPOSED = 5  # EXIF orientations from 5 on exchange height and width


class ImageFailed(RunFailed):
    """An indexed image can no longer be read or decoded.

    Attributes:
        fault: what is wrong; begins with the path of the file.
        store, position: which image it is.
    """

    def __init__(self, fault: str, store: "EncodedStore", position: int) -> None:
        super().__init__(f"{fault}: restore the original file, or fix it and run {store.command}")
        self.fault, self.store, self.position = fault, store, int(position)


class EncodedStore(StoreBase):
    """One split of a data set whose images stay in their files; see also `StoreBase`.

    Attributes:
        image_size: None, because images may have any size.
        files: bytes [F], names of files below `root`.
        records: RECORD [N].
        hashes: uint8 [N, HASH_BYTES], SHA-256 of each image's bytes when it was indexed; None in
            stores of format 1.
        sums: float64 [N, 6], the mean of each channel of each image, then of its square.
        recent: positions of the images that were read last.
        failure: the failure of the image that could not be read, or None.
    """

    path: Path
    meta: EncodedStoreMeta
    image_size: None = None

    def __init__(
        self,
        path: Path,
        meta: EncodedStoreMeta,
        *,
        files: np.ndarray,
        records: np.ndarray,
        hashes: np.ndarray | None,
        sums: np.ndarray,
        labels: np.ndarray,
    ) -> None:
        super().__init__(path, meta, labels)
        self.files, self.records, self.hashes, self.sums = files, records, hashes, sums
        self.recent: deque[int] = deque(maxlen=MAX_RECENT)
        self.failure: ImageFailed | None = None

    @property
    def root(self) -> str:
        """The folder of the image files."""
        return native(self.meta.root)

    def sizes(self, positions: np.ndarray) -> np.ndarray:
        """Returns height and width of images as they are shown, int64 [B, 2]."""
        records = self.records[positions]
        sizes = np.stack([records["height"], records["width"]], axis=-1).astype(np.int64)
        is_transposed = records["orientation"] >= FIRST_TRANSPOSED
        return np.where(is_transposed[..., None], sizes[..., ::-1], sizes)

    @property
    def num_converted(self) -> int:
        """The number of images that the store keeps, as PNG or as copies."""
        return int(np.count_nonzero(self.records["file"] <= IN_CONVERTED))

    @property
    def converted_bytes(self) -> int:
        return self.meta.file_sizes[CONVERTED]

    def file_of(self, position: int) -> str:
        """Returns the path of the file that holds an image."""
        number = self.records["file"][position]
        if number <= IN_CONVERTED:
            return os.path.join(self.path, CONVERTED)
        return os.path.join(self.root, os.fsdecode(bytes(self.files[number])))

    def source_of(self, position: int) -> str:
        """Returns the path of the file that held an image when it was indexed, for people.

        Of an image in a file of several, such as a tar, it is the path of that file; if the store
        holds a copy of the image, it also has the image's name in that file. For copies in stores
        of earlier versions, it is CONVERTED.
        """
        number = int(self.records["file"][position])
        if number == IN_CONVERTED:
            return self.file_of(position)
        name = self.files[number if number >= 0 else IN_CONVERTED - 1 - number]
        return os.path.join(self.root, os.fsdecode(bytes(name)))

    def read(self, positions: np.ndarray) -> np.ndarray:
        """Returns the bytes of images, JPEG or PNG: an object array [B]. Safe to call from threads.

        Raises:
            ImageFailed: a file is gone or shorter than it was.
        """
        contents = np.empty(len(positions), object)
        self.recent.extend(positions)
        try:
            contents[:] = [self._read_image(position) for position in positions]
        except ImageFailed as failure:
            self.failure = failure  # TensorFlow replaces what a function of its pipeline raises
            raise
        return contents

    def _read_image(self, position: int) -> bytes:
        record, file = self.records[position], self.file_of(position)
        offset, length = int(record["offset"]), int(record["length"])
        try:
            descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)  # opening a pipe would block
            try:
                content = os.pread(descriptor, length, offset)
            finally:
                os.close(descriptor)
        except OSError as error:
            fault = f"{file} can no longer be read ({error.strerror})"
            raise ImageFailed(fault, self, position) from error
        if len(content) != length:
            raise ImageFailed(f"{file} is shorter than when it was indexed", self, position)
        return content

    def changed(self, position: int) -> ImageFailed:
        """Returns the failure of an image that was read, but is not the one that was indexed."""
        fault = f"{self.file_of(position)} is damaged, or has changed since it was indexed"
        return ImageFailed(fault, self, position)

    @contextlib.contextmanager
    def image_as_indexed(self, position: int, content: bytes) -> Iterator[None]:
        """Raises an ImageFailed if an image has changed, or the block cannot decode it with Pillow.

        Args:
            content: the bytes that `read` has returned. Those of a PNG that the store made, and
                those of images in stores of format 1, have no hash, and are only decoded.
        """
        is_original = self.records["file"][position] > IN_CONVERTED
        if self.hashes is not None and is_original:
            digest = hashlib.sha256(content).digest()
            if digest != bytes(self.hashes[position]):
                raise self.changed(position)
        try:
            with report_image_errors(self.file_of(position)):
                yield
        except UserError as error:
            raise self.changed(position) from error

    @property
    def command(self) -> str:
        """The command that indexes the images again."""
        return self.command_for(native(self.meta.given) if self.meta.given else self.root)

    def command_for(self, source: str) -> str:
        """Returns the command that indexes images of another folder as these were, and there."""
        words = [*program_name().split(), "data", "prepare", self.dataset, "--source", source]
        words += self.meta.options
        words += [] if self.verified else ["--allow-unverified"]
        return f"`{shlex.join(words + self._place_words())}`"

    def _place_words(self) -> list[str]:
        """Returns the words with which `data prepare` writes to the folder of this store."""
        packed = self.path.parent.parent
        folder = os.path.abspath(packed.parent)
        if packed.name != PACKED or folder == os.path.abspath(default_data_dir()):
            return []
        return ["--cache-dir", folder]


def digest_of(hashes: np.ndarray, labels: np.ndarray) -> str:
    """Returns a store's digest: SHA-256 (hex) of the images' hashes, then of the labels.

    Args:
        hashes: uint8 [N, HASH_BYTES].
        labels: int32 [N].
    """
    sha = hashlib.sha256(np.ascontiguousarray(hashes).data)
    sha.update(np.ascontiguousarray(labels).data)
    return sha.hexdigest()


def open_encoded(path: Path, meta: EncodedStoreMeta) -> EncodedStore:
    """Opens an encoded store whose `meta.json` has been read; see `opening.open_store`."""
    count, hashes = meta.count, None
    records = map_array(path / "pictures.npy", RECORD, (count,))
    labels = np.array(map_array(path / "labels.npy", np.int32, (count,)))
    if "hashes.npy" in meta.file_sizes:
        hashes = map_array(path / "hashes.npy", np.uint8, (count, HASH_BYTES))
    sums = map_array(path / "moments.npy", np.float64, (count, 6))
    files = read_array(path / "files.npy")
    if files.ndim != 1 or files.dtype.kind != "S" or files.itemsize > MAX_NAME_BYTES:
        raise damaged(path / "files.npy", "does not hold names of files")
    _check_records(path / "pictures.npy", records, len(files), meta.file_sizes[CONVERTED])
    mean, square = np.split(sums, 2, axis=1)
    if not ((mean >= 0) & (mean <= 255) & (square <= 255 * mean * (1 + 1e-9))).all():
        raise damaged(path / "moments.npy", "does not hold means of pixels")
    store = EncodedStore(
        path, meta, files=files, records=records, hashes=hashes, sums=sums, labels=labels
    )
    in_place = np.flatnonzero(records["file"] > IN_CONVERTED)
    if len(in_place) and not os.path.isfile(first := store.file_of(int(in_place[0]))):
        raise UserError(
            f"{path} indexes images below {store.root}, but {first} is missing; restore "
            f"them, or run {store.command_for('DIR')} again"
        )
    return store


def _check_records(file: Path, records: np.ndarray, num_files: int, converted_bytes: int) -> None:
    """Raises a UserError for the first record that describes no image."""
    numbers, offsets, lengths = (records[key] for key in ("file", "offset", "length"))
    is_valid = (numbers >= IN_CONVERTED - num_files) & (numbers < num_files)
    is_valid &= (offsets >= 0) & (lengths > 0)
    is_valid &= lengths <= 2**31
    is_valid &= (records["height"] > 0) & (records["width"] > 0)
    is_valid &= np.isin(records["orientation"], (1, *UPRIGHT))
    is_valid &= (numbers > IN_CONVERTED) | (offsets <= converted_bytes - lengths)
    if not is_valid.all():
        raise damaged(file, f"is wrong about image {int(np.argmin(is_valid))}")
