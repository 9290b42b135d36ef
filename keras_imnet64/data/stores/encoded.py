"""Encoded stores: images of any size as JPEG or PNG, indexed where they lie and read at random.

A store is a folder with `files.npy` (names of files below `root`), `pictures.npy` (RECORD [N],
where each image lies and how large it is), `hashes.npy` (uint8 [N, 32], SHA-256 of its file's
bytes), `moments.npy` (float64 [N, 6]), `labels.npy`, `converted.bin` and `meta.json`. Nothing is
copied, but what TensorFlow cannot decode as Pillow does: such images are kept in `converted.bin`
as PNG. `indexing` writes it; `store.open_store` opens either kind.
"""

import hashlib
import os
from collections import deque

import numpy as np

from keras_imnet64.core.errors import RunFailed, UserError, reason
from keras_imnet64.core.paths import native
from keras_imnet64.data.images.reading import UPRIGHT
from keras_imnet64.data.stores.base import StoreBase

KIND = "encoded"
FORMAT_VERSION = 2
CONVERTED = "converted.bin"
HERE = -1  # the file number of what lies in CONVERTED
ARRAYS = {  # by format version; the first kept no hashes
    1: {"files.npy", "pictures.npy", "moments.npy", "labels.npy", CONVERTED},
    2: {"files.npy", "pictures.npy", "hashes.npy", "moments.npy", "labels.npy", CONVERTED},
}
HASH_BYTES = 32
RECORD = np.dtype(
    [
        ("file", "<i4"),  # a position in files.npy, or HERE
        ("offset", "<i8"),  # of its bytes in that file
        ("length", "<i8"),
        ("height", "<i4"),  # in pixels, as decoded
        ("width", "<i4"),
        ("orientation", "<i4"),  # of EXIF, see `reading.UPRIGHT`
    ]
)
MOST_FILE_NAME = 4096  # bytes of a name below the root, which is the most that Linux takes
RECENT = 4096  # images that are read ahead at most, roughly
SIDEWAYS = 5  # the first of the orientations that exchange height and width


class ImageFailed(RunFailed):
    """An image that an index has can no longer be read or decoded.

    Attributes:
        fault: what is wrong, in words that begin with the file.
        store, position: where it stands.
    """

    def __init__(self, fault, store, position):
        super().__init__(
            f"{fault}: bring back the file as it was, or mend it and run {store.command}"
        )
        self.fault, self.store, self.position = fault, store, int(position)


class EncodedStore(StoreBase):
    """One split: where its images lie, labels, and what they mean; see also `StoreBase`.

    Attributes:
        image_size: None, for images may have any.
        root: the folder of the files.
        records: RECORD [N].
        hashes: uint8 [N, HASH_BYTES], SHA-256 of each image's bytes as they were indexed; None
            in stores of format 1.
        sums: float64 [N, 6], the mean of each channel of each image, then of its square.
        recent: positions of the images that were read last.
    """

    image_size = None
    failure = None
    root = property(lambda self: native(self.meta["root"]))

    def __init__(self, path, meta, files, images, hashes, sums, labels):
        super().__init__(path, meta, labels)
        self.files, self.records, self.hashes, self.sums = files, images, hashes, sums
        self.recent = deque(maxlen=RECENT)

    def sizes(self, positions):
        """int64 [B, 2]: height and width of images as they are to be seen."""
        records = self.records[positions]
        sizes = np.stack([records["height"], records["width"]], axis=-1).astype(np.int64)
        sideways = records["orientation"] >= SIDEWAYS
        return np.where(sideways[..., None], sizes[..., ::-1], sizes)

    @property
    def num_converted(self):
        """How many images the store keeps as PNG."""
        return int(np.count_nonzero(self.records["file"] == HERE))

    @property
    def converted_bytes(self):
        return self.meta["bytes"][CONVERTED]

    def file_of(self, position):
        """The path of the file that holds an image."""
        number = self.records["file"][position]
        if number == HERE:
            return os.path.join(self.path, CONVERTED)
        return os.path.join(self.root, os.fsdecode(bytes(self.files[number])))

    def read(self, positions):
        """The bytes of images, JPEG or PNG: an object array [B]; safe to call from threads.

        Raises:
            ImageFailed: a file is gone or shorter than it was.
        """
        contents = np.empty(len(positions), object)
        self.recent.extend(positions)
        try:
            contents[:] = [self._read(position) for position in positions]
        except ImageFailed as failure:
            self.failure = failure  # which TensorFlow, on its way through a pipeline, makes its own
            raise
        return contents

    def _read(self, position):
        record, file = self.records[position], self.file_of(position)
        offset, length = int(record["offset"]), int(record["length"])
        try:
            descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would never open
            try:
                content = os.pread(descriptor, length, offset)
            finally:
                os.close(descriptor)
        except OSError as error:
            fault = f"{file} cannot be read any more ({error.strerror})"
            raise ImageFailed(fault, self, position) from error
        if len(content) != length:
            raise ImageFailed(f"{file} is shorter than when it was indexed", self, position)
        return content

    @property
    def command(self):
        """The command that indexes the images anew."""
        return f"`python cli.py data prepare {self.dataset} --source {self.root}`"


def digest_of(hashes, labels):
    """SHA-256 (hex) of the SHA-256 of each image's bytes, then of the labels: a store's digest.

    Args:
        hashes: uint8 [N, HASH_BYTES].
        labels: int32 [N].
    """
    sha = hashlib.sha256(np.ascontiguousarray(hashes).data)
    sha.update(np.ascontiguousarray(labels).data)
    return sha.hexdigest()


def open_encoded(path, meta, map_array, damaged):
    """An EncodedStore from its checked `meta.json`; see `store.open_store`."""
    count = meta["count"]
    images = map_array(path / "pictures.npy", RECORD, (count,))
    labels = np.array(map_array(path / "labels.npy", np.dtype(np.int32), (count,)))
    hashes = None
    if meta["format_version"] > 1:
        hashes = map_array(path / "hashes.npy", np.dtype(np.uint8), (count, HASH_BYTES))
    sums = map_array(path / "moments.npy", np.dtype(np.float64), (count, 6))
    try:
        files = np.load(path / "files.npy", mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy reads the header as Python: any error of a tokenizer
        raise damaged(path / "files.npy", f"cannot be read ({reason(error)})") from None
    if files.ndim != 1 or files.dtype.kind != "S" or files.itemsize > MOST_FILE_NAME:
        raise damaged(path / "files.npy", "does not hold names of files")
    _check_records(path, images, files, meta["bytes"][CONVERTED], damaged)
    mean, square = np.split(sums, 2, axis=1)
    if not ((mean >= 0) & (mean <= 255) & (square <= 255 * mean * (1 + 1e-9))).all():
        raise damaged(path / "moments.npy", "does not hold means of pixels")
    store = EncodedStore(path, meta, files, images, hashes, sums, labels)
    first = store.file_of(int(np.argmax(images["file"] != HERE)))
    if not os.path.isfile(first):
        raise UserError(
            f"{path} indexes images below {store.root}, but {first} is not there; bring them "
            f"back, or run `python cli.py data prepare {store.dataset} --source DIR` again"
        )
    return store


def _check_records(path, images, files, converted_bytes, damaged):
    numbers, offsets, lengths = (images[key] for key in ("file", "offset", "length"))
    here = numbers == HERE
    whole = (numbers >= HERE) & (numbers < len(files)) & (offsets >= 0) & (lengths > 0)
    whole &= lengths <= 2**31
    whole &= (images["height"] > 0) & (images["width"] > 0)
    whole &= np.isin(images["orientation"], (1, *UPRIGHT))
    whole &= ~here | (offsets <= converted_bytes - lengths)
    if not whole.all():
        raise damaged(path / "pictures.npy", f"is wrong about image {int(np.argmin(whole))}")
