"""Makes weight files in the layout of torchvision and timm, without torch."""

import json
import math
import struct

from keras import ops

from keras_imnet64.convert.namings import NAMINGS, family_of, tensors_of
from keras_imnet64.models import build_model
from keras_imnet64.models.keras_private import without_weights

BYTES = {"F32": 4, "F16": 2, "I64": 8, "U8": 1}


def shapes_of(name, num_classes=10, **options):
    """{PyTorch name: shape} of a network at 224 pixels, with step counters as PyTorch has them."""
    published = family_of(name).options
    with without_weights():
        model = build_model(name, image_size=224, num_classes=num_classes, **published | options)
        tensors = tensors_of(model, NAMINGS[name][0])
    counters = {t.name for t in tensors if t.name.endswith("running_mean")}
    counters = {name.replace("running_mean", "num_batches_tracked"): () for name in counters}
    return {t.name: t.shape for t in tensors} | counters


def write_zeros(path, shapes, dtype="F16", **dtypes):
    """Writes a sparse safetensors file of zeros and returns {name: offset of its bytes}."""
    header, end = {}, 0
    for name, shape in shapes.items():
        kind = "I64" if name.endswith("num_batches_tracked") else dtypes.get(name, dtype)
        begin, end = end, end + BYTES[kind] * math.prod(shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return {name: 8 + len(text) + entry["data_offsets"][0] for name, entry in header.items()}


def pytorch_arrays(model, naming):
    """{PyTorch name: array} of a model's weights, with the axes transposed by hand."""
    arrays = {}
    for tensor in tensors_of(model, naming):
        array = ops.convert_to_numpy(tensor.variable)
        if array.ndim == 4 and array.shape[3] == 1:  # depthwise, [h, w, C, 1] -> [C, 1, h, w]
            array = array.transpose(2, 3, 0, 1)
        elif array.ndim == 4:  # [h, w, I, O] -> [O, I, h, w]
            array = array.transpose(3, 2, 0, 1)
        elif array.ndim == 2 and tensor.flattened_map:  # [H * W * C, O] -> [O, C * H * W]
            maps = array.reshape(*tensor.flattened_map, -1)  # [H, W, C, O]
            array = maps.transpose(3, 2, 0, 1).reshape(array.shape[::-1])
        elif array.ndim == 2:
            array = array.T
        arrays[tensor.name] = array.copy()
    return arrays
