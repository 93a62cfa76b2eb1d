"""What holds for all tests: the order of their files, how hypothesis makes examples, caches, the garbage collector."""

from __future__ import annotations

import gc
from functools import cache
from pathlib import Path

import httpx._transports.default
import pytest
import redis.utils
from hypothesis import HealthCheck, settings

# The imports and the collected tests are a million objects, none of which is ever garbage: they are gone through less
# often while they are made, and never again afterwards.
gc.set_threshold(10_000, 10, 10)

# The machine that runs the tests may be busy: how long an example takes, or its making, says nothing.
settings.register_profile("tests", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

# Each client of httpx makes a context of TLS, which takes thirty milliseconds: those with the same options share one.
httpx._transports.default.create_ssl_context = cache(httpx.create_ssl_context)

# Each connection of redis-py reads its version out of the package's metadata, as long as all else that it does.
redis.utils.get_lib_version = cache(redis.utils.get_lib_version)

# Those that take longest, most of them since they start processes, come first: each file is run by one process (see
# the Makefile), and one that began last would leave the other cores idle. Waiting ones alternate with computing ones.
# Where the slow tests are run, it is their length that counts.
FIRST_OF_SLOW = (
    "test_tutorial.py",
    "api/test_conformance.py",
    "crosskd/backbones/test_timm_table.py",
    "test_demo.py",
    "test_end_to_end.py",
    "crosskd/test_oracle.py",
    "test_control.py",
    "crosskd/runs/test_precision.py",
    "api/services/lifecycle/test_state_machine.py",
    "test_deploy_commands.py",
    "crosskd/runs/test_train_ranks.py",
    "test_pairs.py",
    "test_families.py",
    "test_reproduce.py",
    "crosskd/test_regression.py",
    "crosskd/runs/test_kill.py",
    "crosskd/onnx/test_graph.py",
    "crosskd/onnx/test_queries.py",
)
FIRST = (
    "api/test_conformance.py",
    "worker/test_processes.py",
    "crosskd/test_oracle.py",
    "test_end_to_end.py",
    "api/services/lifecycle/test_state_machine.py",
    "worker/test_control_processes.py",
    "crosskd/runs/test_train.py",
    "client/stack/test_up.py",
    "crosskd/test_main.py",
    "worker/test_with_api.py",
    "crosskd/runs/test_export.py",
    "worker/test_shutdown_and_priority.py",
    "client/test_cli.py",
    "crosskd/data/test_loader.py",
    "api/http/test_streams.py",
    "api/test_server.py",
    "client/stack/test_up_host.py",
    "api/test_outages.py",
    "crosskd/test_ranks.py",
    "worker/training/test_launch.py",
    "crosskd/engine/test_launch.py",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    if gone := [name for name in (*FIRST, *FIRST_OF_SLOW) if not (here / name).is_file()]:
        raise pytest.UsageError(f"tests/conftest.py names files that are not there: {gone}")
    first = FIRST_OF_SLOW if config.option.markexpr == "slow" else FIRST
    place = {here / name: number for number, name in enumerate(first)}
    items.sort(key=lambda item: place.get(item.path, len(first)))


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()
