"""What every command asks of a model: images in, one logit for each class out, and its names."""

from keras_imnet64.core.errors import UserError


def contract_of(model, who):
    """The size of the images and the number of classes of a classifier.

    Args:
        model: a keras.Model.
        who: what a message calls it, such as its path.

    Returns:
        (H, W, K); H and W are None where the model takes images of any size.

    Raises:
        UserError: it does not take images [B, H, W, 3] alone, or not give logits [B, K] alone.
    """
    inputs, outputs = shapes_of(model, "inputs"), shapes_of(model, "outputs")
    if not inputs or not outputs:
        raise UserError(
            f"{who} does not state what it takes and gives; a functional model is needed, or a "
            "sequential one that begins with keras.Input"
        )
    if len(inputs) != 1 or len(inputs[0]) != 4 or inputs[0][0] or inputs[0][3] != 3:
        raise UserError(
            f"{who} takes {in_words(inputs)}; one input of images [None, H, W, 3], in batches of "
            "any size, is needed"
        )
    if len(outputs) != 1 or len(outputs[0]) != 2 or outputs[0][0] or (outputs[0][1] or 0) < 2:
        raise UserError(
            f"{who} gives {in_words(outputs)}; one output of logits [None, K], of two classes or "
            "more, is needed"
        )
    return (*inputs[0][1:3], outputs[0][1])


def names_of(info, num_classes, who):
    """(class ids, class names) that a model file states, each None where it states none.

    Raises:
        UserError: they are not as many as the logits.
    """
    ids, names = info.get("wnids") or None, info.get("class_names") or None
    for what, found in (("class ids", ids), ("class names", names)):
        if found and len(found) != num_classes:
            raise UserError(
                f"{who} has {num_classes} logits and states {len(found)} {what}; there must be as "
                "many"
            )
    return ids, names


def shapes_of(model, side):
    """Shapes of a model's inputs or outputs; none where it is not built, or no such model."""
    try:
        tensors = getattr(model, side, None)
    except (AttributeError, ValueError):  # a model that was never called
        tensors = None
    return [tuple(tensor.shape) for tensor in tensors or []]


def in_words(shapes):
    return " and ".join(str(list(shape)) for shape in shapes)


def ends_in_softmax(model):
    """Whether a classifier gives probabilities and not logits."""
    import keras

    last = model.outputs[0]._keras_history.operation
    return getattr(last, "activation", None) is keras.activations.softmax or isinstance(
        last, keras.layers.Softmax
    )


def with_logits(model):
    """The classifier without the softmax at its end, if it has one; it shares all layers."""
    import keras

    if not ends_in_softmax(model):
        return model
    last = model.outputs[0]._keras_history.operation
    if isinstance(last, keras.layers.Softmax | keras.layers.Activation):
        return keras.Model(model.inputs, last.input)
    last.activation = keras.activations.linear
    return model
