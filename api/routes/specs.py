"""Writing specifications: the schema that a form is made of, and YAML read as the command line reads it."""

from __future__ import annotations

from functools import cache

from fastapi import APIRouter, Request

from api.http.authenticated import AuthenticatedRoute
from api.services.submission import yaml_edit, yaml_text
from crosskd.spec import registry
from wire.jobs import JobCreate
from wire.specs import EditedText, ParsedText, SpecEdit, SpecSchema, SpecText
from wire.sweeps import SweepCreate

router = APIRouter(prefix="/specs", tags=["jobs"], route_class=AuthenticatedRoute)


@cache
def _schema() -> SpecSchema:
    return SpecSchema(
        job=JobCreate.model_json_schema(),
        sweep=SweepCreate.model_json_schema(),
        detectors=list(registry.DETECTORS),
        backbones=list(registry.BACKBONES),
        methods=list(registry.TERMS),
        data_roots=[],
    )


@router.get("/schema")
def get_spec_schema(request: Request) -> SpecSchema:
    """The fields of a job and of a sweep, with types, bounds, defaults and descriptions, and the names they take."""
    roots = [str(root) for root in request.app.state.settings.data_roots]
    return _schema().model_copy(update={"data_roots": roots})


@router.post("/parse")
def parse_spec(asked: SpecText) -> ParsedText:
    """YAML as JSON, with the line of each part. Nothing is stored, and nothing is checked but that it can be read."""
    return yaml_text.parse(asked.text)


@router.post("/edit")
def edit_spec(asked: SpecEdit) -> EditedText:
    """YAML that says `value`: the text with as few changes as that takes, so comments, order and spelling stay."""
    return yaml_edit.edit(asked.text, asked.value)
