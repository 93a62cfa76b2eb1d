"""A client in Python, made of the API's description by openapi-python-client: nothing is left out of it."""

from __future__ import annotations

import json
import pkgutil
from importlib import import_module
from pathlib import Path

import pytest
from fastapi import FastAPI
from openapi_python_client import generate
from openapi_python_client.config import Config, ConfigFile, MetaType

from tests.support.openapi import described

PACKAGE = "crosskd_as_generated"


@pytest.fixture(scope="module")
def backend() -> str:
    return "sqlite"  # the description is of no database


# Python's own warning of `1and`, as the generator writes the one value that a version may have.
@pytest.mark.filterwarnings("ignore:invalid decimal literal")
def test_it_is_made_without_a_warning_and_imports(
    app: FastAPI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = tmp_path / "openapi.json"
    document.write_text(json.dumps(described(app)), encoding="utf-8")
    # No hooks: they would only lay its text out.
    config = Config.from_sources(
        ConfigFile(post_hooks=[]), MetaType.NONE, document, "utf-8", overwrite=False, output_path=tmp_path / PACKAGE
    )
    assert [(error.level, error.header, error.detail) for error in generate(config=config)] == []

    monkeypatch.syspath_prepend(tmp_path)
    package = import_module(PACKAGE)
    found = [module.name for module in pkgutil.walk_packages(package.__path__, f"{PACKAGE}.")]
    modules = {name: import_module(name) for name in found}
    operations = {
        operation["operationId"] for operations in described(app)["paths"].values() for operation in operations.values()
    }
    assert len(operations) > 40
    assert operations <= {name.rpartition(".")[2] for name in modules}

    models = modules[f"{PACKAGE}.models"]
    body = {"name": "mine", "spec": {"weights": {"job": "0" * 32}}}
    assert models.JobCreate.from_dict(body).to_dict() == body  # neither kind nor priority has to be said
