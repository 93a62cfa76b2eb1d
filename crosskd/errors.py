"""Everything the core refuses or gives up on, in one tree.

Each class names the failure class that the service stores (`user`, `data`, `diverged`, `out_of_memory`,
`infrastructure`), so a worker never has to guess why a run ended.

    CrossKDError
    ├── ConfigError           user      the configuration cannot be run
    ├── WeightsError          user      a weights file is not what the configuration says
    ├── ExportError           user      a model cannot be exported, or its export does not agree with it
    ├── DataError             data      an annotation file or an image is broken
    ├── CheckpointMismatch    user      a checkpoint belongs to another run
    ├── CheckpointCorrupt     infrastructure  a checkpoint's bytes are not what was written
    ├── Diverged              diverged  a loss is no longer finite
    ├── OutOfMemory           out_of_memory   the device is too small for the batch
    ├── RankLost              infrastructure  another process of the same training has ended
    └── Interrupted           (no failure)    asked to stop
"""

from __future__ import annotations


class CrossKDError(Exception):
    """What went wrong, where it stands and what to do about it.

    `where` is a JSON pointer into the configuration (`/student/backbone/name`), a file name with a
    position in it, or empty. `remedy` is one sentence that starts with a verb.
    """

    failure_class = "infrastructure"

    def __init__(self, message: str, *, where: str = "", remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        where = f" (at {self.where})" if self.where else ""
        remedy = f" {self.remedy}" if self.remedy else ""
        said = f"{self.message}{where}"
        end = "" if said.endswith((".", "!", "?")) else "."
        return f"{said}{end}{remedy}"


class ConfigError(CrossKDError):
    """The configuration contradicts itself or the machine it runs on."""

    failure_class = "user"


class WeightsError(CrossKDError):
    """A weights file cannot be read, is not safe to read, or does not fit the model."""

    failure_class = "user"


class ExportError(CrossKDError):
    """A model has no form in the format that is asked for, or computes something else in it."""

    failure_class = "user"


class DataError(CrossKDError):
    """An annotation file or an image is broken; the message names file, entry and fault."""

    failure_class = "data"


class CheckpointMismatch(CrossKDError):
    """A checkpoint was written by a run with another configuration."""

    failure_class = "user"


class CheckpointCorrupt(CrossKDError):
    """A checkpoint's bytes do not match the digest that was written with it."""

    failure_class = "infrastructure"


class Diverged(CrossKDError):
    """A loss term is no longer finite; the message names the term and the step."""

    failure_class = "diverged"


class OutOfMemory(CrossKDError):
    """The device ran out of memory; the message names the batch."""

    failure_class = "out_of_memory"


class RankLost(CrossKDError):
    """Another process of the same training has ended; why, that one knows or whoever started it."""

    failure_class = "infrastructure"


class NoAnswer(CrossKDError):
    """A stop was asked for while a batch was waited for that does not come."""

    failure_class = "infrastructure"


class Interrupted(CrossKDError):
    """The run was asked to stop. From step 1 on there is a checkpoint to go on from; before, there is nothing."""

    def __init__(self, message: str, *, step: int) -> None:
        super().__init__(message, remedy="Resume from its checkpoint." if step else "Start it again.")
        self.step = step
