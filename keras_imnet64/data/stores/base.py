"""What a store says of itself, from its `meta.json`: common to raw and encoded ones."""


class StoreBase:
    """One split: its labels, and what they and its images are.

    Attributes:
        path: the folder, or None for arrays that came from elsewhere.
        meta: the content of `meta.json`.
        labels: int32 [N], 0-based positions in `wnids`.
        wnids: class ids, in label order.
        class_names: names for people, in label order.
        verified: whether the images are known to be those that the name promises; always true
            of one's own, since their name promises none.
        digest: SHA-256 (hex) of images and labels.
    """

    def __init__(self, path, meta, labels):
        self.path, self.meta, self.labels = path, meta, labels

    dataset = property(lambda self: self.meta["dataset"])
    split = property(lambda self: self.meta["split"])
    source = property(lambda self: self.meta["source"])
    wnids = property(lambda self: self.meta["wnids"])
    class_names = property(lambda self: self.meta["class_names"])
    verified = property(lambda self: self.meta["verified"])
    digest = property(lambda self: self.meta["digest"])

    def __len__(self):
        return len(self.labels)
