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
    """

    subject: Subject
    examined: Examination | None
    unseen: str | None = None

    @property
    def label(self) -> str:
        return self.subject.label

    @property
    def run(self) -> Run:
        return self.subject.run

    @property
    def recipe(self) -> Recipe | None:
        return self.subject.recipe

    @property
    def metrics(self) -> Metrics:
        return self.subject.metrics
