from __future__ import annotations

import errno

import pytest
import torch
from pydantic import ValidationError

from crosskd import errors
from crosskd.spec.config import TrainConfig
from worker.training.failures import describe, invalid_spec

SPEC = {"data": {"train": {"annotations": "a.json"}}, "student": {"strides": [8, 16]}, "a/b": {"~": 1}}


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("/student/strides", "/spec/student/strides"),
        ("/student/strides/1", "/spec/student/strides/1"),
        ("/a~1b/~0", "/spec/a~1b/~0"),
        ("/data/train.json", "/data/train.json"),  # a file, though it begins like a pointer
        ("/data/train/annotations.json:17", "/data/train/annotations.json:17"),
        ("annotations.json /images/3", "annotations.json /images/3"),
        ("", ""),
    ],
)
def test_pointers_lead_into_the_spec_and_paths_stay_paths(where: str, expected: str) -> None:
    failure = describe(errors.DataError("bad", where=where, remedy="Mend it."), SPEC)
    assert (failure.where, failure.message, failure.remedy) == (expected, "bad", "Mend it.")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.ConfigError("x"), "user"),
        (errors.WeightsError("x"), "user"),
        (errors.DataError("x"), "data"),
        (errors.CheckpointMismatch("x"), "user"),
        (errors.CheckpointCorrupt("x"), "infrastructure"),
        (errors.Diverged("x"), "diverged"),
        (errors.OutOfMemory("x"), "out_of_memory"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory"),
        (MemoryError(), "out_of_memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."), "out_of_memory"),
        (RuntimeError("shapes do not fit"), "infrastructure"),
        (KeyError("x"), "infrastructure"),
    ],
)
def test_every_error_has_its_class(error: Exception, expected: str) -> None:
    assert describe(error, SPEC).failure_class == expected


def test_an_unforeseen_error_names_its_type_and_message() -> None:
    assert describe(ZeroDivisionError("division by zero"), SPEC).message == "ZeroDivisionError: division by zero"


def test_a_full_disk_has_a_remedy() -> None:
    assert "Free space" in describe(OSError(errno.ENOSPC, "No space left on device"), SPEC).remedy


def test_a_package_that_the_worker_lacks_has_a_remedy() -> None:
    assert "crosskd[worker,timm,detr]" in describe(ModuleNotFoundError("No module named 'timm'"), SPEC).remedy


def test_a_spec_of_another_version_names_every_fault() -> None:
    with pytest.raises(ValidationError) as caught:
        TrainConfig.model_validate({"student": {"backbone": {"name": "x"}}, "novelty": 1})
    failure = invalid_spec(caught.value)
    assert failure.failure_class == "user"
    assert failure.where.startswith("/spec/")
    for pointer in ("/spec/data", "/spec/novelty", "/spec/student/backbone/name"):
        assert pointer in failure.message
