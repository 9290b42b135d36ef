"""A run and what its network does with images: what the sections of a page are made of."""

from dataclasses import dataclass

from keras_imnet64.recipe.schema import Recipe
from keras_imnet64.records import Metrics
from keras_imnet64.report.examination import Examination
from keras_imnet64.report.subjects import Subject
from keras_imnet64.runs import Run


@dataclass(frozen=True)
class ReportedRun:
    """A run of a page.

    Attributes:
        examined: None for a run whose images are not on this machine.
        unseen: why, as a sentence.
        images_verified: of a file of predictions, whether its images are known to be those that
            the name of the data set promises; None if they are not on this machine.
    """

    subject: Subject
    examined: Examination | None
    unseen: str | None = None
    images_verified: bool | None = None

    @property
    def label(self) -> str:
        return self.subject.label

    @property
    def verified(self) -> bool | None:
        """Whether the images are verified; None if nothing here states it."""
        if self.subject.predictions is not None:
            return self.images_verified
        return self.metrics.verified

    @property
    def run(self) -> Run:
        return self.subject.run

    @property
    def recipe(self) -> Recipe | None:
        return self.subject.recipe

    @property
    def metrics(self) -> Metrics:
        return self.subject.metrics
