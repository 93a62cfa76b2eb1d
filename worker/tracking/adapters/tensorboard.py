"""TensorBoard: event files in a folder, one folder for each job.

The records are written one by one and by this thread, where TensorBoard's own writer has a thread and a queue: so a
full disk is met here, and what found no room is written again, whole.
"""

from __future__ import annotations

import io
import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from google.protobuf.struct_pb2 import Value
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from tensorboard.summary.writer.record_writer import RecordWriter

from worker.tracker_settings import TrackerSettings
from worker.tracking.files import Ended, Job, Points
from worker.tracking.tracker import flat

# From tensorboard/plugins/hparams: the tags and the version of its records, and api.proto's Status.
_SESSION_START, _SESSION_END, _HPARAMS_VERSION = "_hparams_/session_start_info", "_hparams_/session_end_info", 0
_SUCCESS, _FAILURE = 1, 2


class _EventFile:
    """A file of events that only ever grows by whole ones."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # As TensorBoard looks for them; by the name they are read in the order in which they were begun.
        self._path = folder / f"events.out.tfevents.{time.time():.6f}.{platform.node()}.{os.getpid()}"
        self._path.touch(exist_ok=False)
        self._size = 0

    def write(self, events: Sequence[Event]) -> None:
        """Append them, all or none. Raises `OSError`."""
        buffer = io.BytesIO()
        records = RecordWriter(buffer)
        for event in events:
            records.write(event.SerializeToString())
        content = buffer.getvalue()
        with self._path.open("ab", buffering=0) as file:
            try:
                if file.write(content) != len(content):
                    raise OSError("the disk is full")
            except OSError:
                file.truncate(self._size)
                raise
        self._size += len(content)


class TensorBoard:
    """Scalars, the specification as text and as hyperparameters, the links as text."""

    def __init__(self, settings: TrackerSettings) -> None:
        self._settings = settings
        self._file: _EventFile | None = None
        self._step = 0

    def start(self, job: Job) -> str:
        folder = job.home / self._settings.tensorboard_folder.expanduser() / job.job
        events = [Event(wall_time=time.time(), file_version="brain.Event:2")]
        if job.resume_step:
            # What a former attempt wrote from here on is written again: readers drop the former.
            restart = SessionLog(status=SessionLog.START)
            events.append(Event(wall_time=time.time(), step=job.resume_step + 1, session_log=restart))
        spec = "\n".join("    " + line for line in json.dumps(job.spec, indent=2).splitlines())  # as code
        events.append(_event(0, _text("job", f"{job.kind} job [{job.job}]({job.url})")))
        events.append(_event(0, _text("spec", spec)))
        start = SessionStartInfo(start_time_secs=time.time(), group_name=job.job)
        for name, value in flat(job.spec):
            start.hparams[name].CopyFrom(_value(value))
        data = HParamsPluginData(version=_HPARAMS_VERSION, session_start_info=start)
        events.append(_event(0, _hparams(_SESSION_START, data)))
        self._file = _EventFile(folder)
        self._file.write(events)
        return str(folder)

    def push(self, points: Sequence[Points]) -> None:
        self._write(
            [
                Event(
                    wall_time=each.at.timestamp(),
                    step=each.step,
                    summary=Summary(
                        value=[Summary.Value(tag=key, simple_value=float(value)) for key, value in each.values.items()]
                    ),
                )
                for each in points
            ]
        )
        self._step = points[-1].step

    def link(self, links: Mapping[str, str]) -> None:
        lines = [f"- [{name}]({url})" for name, url in sorted(links.items())]
        self._write([_event(self._step, _text("files", "\n".join(lines)))])

    def finish(self, outcome: Ended) -> None:
        status: Any = _SUCCESS if outcome == "succeeded" else _FAILURE
        end = SessionEndInfo(status=status, end_time_secs=time.time())
        data = HParamsPluginData(version=_HPARAMS_VERSION, session_end_info=end)
        self._write([_event(self._step, _hparams(_SESSION_END, data))] if outcome != "released" else [])

    def _write(self, events: Sequence[Event]) -> None:
        assert self._file is not None, "it was started"
        self._file.write(events)


def _event(step: int, value: Summary.Value) -> Event:
    return Event(wall_time=time.time(), step=step, summary=Summary(value=[value]))


def _text(tag: str, text: str) -> Summary.Value:
    plugin = SummaryMetadata.PluginData(plugin_name="text")
    tensor = TensorProto(dtype=DT_STRING, string_val=[text.encode()])
    return Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=plugin), tensor=tensor)


def _hparams(tag: str, data: HParamsPluginData) -> Summary.Value:
    plugin = SummaryMetadata.PluginData(plugin_name="hparams", content=data.SerializeToString())
    return Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=plugin))


def _value(value: str | bool | int | float) -> Value:
    if isinstance(value, bool):
        return Value(bool_value=value)
    return Value(string_value=value) if isinstance(value, str) else Value(number_value=value)
