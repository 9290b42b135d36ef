"""Writes images in the forms in which people have them, for tests and benchmarks.

Images are the bytes of JPEG files, or uint8 arrays [N, s, s, 3]; labels are whole numbers.
"""

import csv
import io
import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def hub_schema(names=None, label_type=None):
    """Returns the schema of the Hugging Face Hub, with its metadata."""
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", image), ("label", label_type or pa.int64())])
    label = {"names": names, "_type": "ClassLabel"} if names else {"dtype": "int64"}
    features = {"image": {"_type": "Image"}, "label": label}
    return schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def write_parquet(folder, split, images, labels, names, shards=1, paths=None, **options):
    """Writes `<split>-00000-of-0000N.parquet` ... as the hub does."""
    folder.mkdir(parents=True, exist_ok=True)
    schema = hub_schema(names, options.pop("label_type", None))
    paths = paths or [f"{number}.jpg" for number in range(len(images))]
    for number, part in enumerate(np.array_split(np.arange(len(images)), shards)):
        rows = [{"bytes": images[i], "path": paths[i]} for i in part]
        columns = [pa.array(rows, schema.field("image").type), pa.array([labels[i] for i in part])]
        columns[1] = columns[1].cast(schema.field("label").type)
        file = folder / f"{split}-{number:05}-of-{shards:05}.parquet"
        pq.write_table(pa.Table.from_arrays(columns, schema=schema), file, **options)


def write_webdataset(folder, split, images, labels, shards=1, keys=None, objects=None):
    """Writes `<split>-000000.tar` ...: `.jpg` with `.cls`, or with `.json` if objects are given."""
    folder.mkdir(parents=True, exist_ok=True)
    keys = keys or [f"{number:06}" for number in range(len(images))]
    for number, part in enumerate(np.array_split(np.arange(len(images)), shards)):
        with tarfile.open(folder / f"{split}-{number:06}.tar", "w") as archive:
            for i in part:
                add(archive, f"{keys[i]}.jpg", images[i])
                if objects is None:
                    add(archive, f"{keys[i]}.cls", str(labels[i]).encode())
                else:
                    add(archive, f"{keys[i]}.json", json.dumps(objects[i]).encode())


def add(archive, name, content):
    """Adds a file to a tar."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def write_csv(file, rows, header=("path", "label"), **options):
    """Writes a CSV file of rows."""
    with open(file, "w", newline="", encoding=options.pop("encoding", "utf-8")) as text:
        writer = csv.writer(text, **options)
        writer.writerows([header, *rows])


def batch(images, labels):
    """Returns the dict of a batch of downsampled ImageNet, whose labels begin with 1."""
    data = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(images), -1)
    return {"data": data, "labels": np.asarray(labels) + 1}


def write_npz_batches(folder, train, validation, batches=2):
    """Writes `train_data_batch_<i>.npz` and `val_data.npz`; sets are (images, labels from 0)."""
    for name, content in each_batch(train, validation, batches):
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(folder / f"{name}.npz", **content)


def write_pickle_batches(folder, train, validation, batches=2, protocol=3):
    """Writes the older edition: pickles whose labels are lists, with the mean in training."""
    mean = batch(*train)["data"].mean(axis=0)
    for name, content in each_batch(train, validation, batches):
        content["labels"] = [int(label) for label in content["labels"]]
        if name != "val_data":
            content["mean"] = mean
        folder.mkdir(parents=True, exist_ok=True)
        Path(folder, name).write_bytes(pickle.dumps(content, protocol))


def each_batch(train, validation, batches):
    """Yields (name, dict) of each batch."""
    for number, part in enumerate(np.array_split(np.arange(len(train[1])), batches), start=1):
        yield f"train_data_batch_{number}", batch(train[0][part], np.asarray(train[1])[part])
    yield "val_data", batch(*validation)
