"""The Dockerfile as data, and enough of a builder to carry one target out in a folder, on this machine's Python."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from e2b_dockerfile_utils import DockerfileInstruction, PatternMatcher, ShellLex, parse_dockerfile_ast

ROOT = Path(__file__).parents[2]
USER = "10001"
MOVED = re.compile(rf"/opt/crosskd|/src|/wheels|/var/lib/crosskd|/app\b|{USER}")


@dataclass
class Stage:
    """One `FROM … AS name` and what follows it. `parent` is the stage it starts from, None for an image."""

    name: str
    base: str
    parent: Stage | None
    own: list[DockerfileInstruction] = field(default_factory=list)

    def instructions(self) -> list[DockerfileInstruction]:
        return [*(self.parent.instructions() if self.parent else []), *self.own]

    def last(self, name: str) -> DockerfileInstruction | None:
        """The instruction that is in force: the last of its name, in this stage or one that it starts from."""
        return next((i for i in reversed(self.instructions()) if i.name == name), None)

    def environment(self) -> dict[str, str]:
        triples = [i.args for i in self.instructions() if i.name == "ENV"]  # name, value, separator, name, …
        return {args[k]: unquote(args[k + 1]) for args in triples for k in range(0, len(args), 3)}


def unquote(word: str) -> str:
    words: list[str] = ShellLex("\\").process_words(word)
    return " ".join(words)


def read_stages(text: str) -> dict[str, Stage]:
    """The stages of a Dockerfile by name, in order. Raises AssertionError for an unnamed stage."""
    tree = parse_dockerfile_ast(text)
    assert tree.warnings == []
    stages: dict[str, Stage] = {}
    for instruction in tree.instructions:
        if instruction.name == "FROM":
            base, word, name = instruction.args
            assert word.upper() == "AS", f"name the stage in line {instruction.start_line}"
            stage = stages[name] = Stage(name, base, stages.get(base))
        else:
            stage.own.append(instruction)
    return stages


def copies(stage: Stage) -> Iterator[tuple[str | None, list[str], str]]:
    """Each COPY of a stage: the stage that it copies from (None: the build context), sources, destination."""
    for instruction in stage.own:
        if instruction.name == "COPY":
            origin = next(
                (flag.removeprefix("--from=") for flag in instruction.flags if flag.startswith("--from=")), None
            )
            yield origin, instruction.args[:-1], instruction.args[-1]


def build_context() -> Callable[[str], bool]:
    """Says of a path whether `.dockerignore` lets it into the build."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    matcher = PatternMatcher([line for line in lines if line and not line.startswith("#")])
    return lambda path: not matcher.matches(path)


class Builder:
    """Carries out stages below `root` as an image builder would, without its isolation.

    Absolute paths of the file are moved below `root`, the image's user becomes this one.
    """

    def __init__(self, stages: dict[str, Stage], root: Path) -> None:
        self.stages = stages
        self.root = root
        self._done: set[str] = set()

    def move(self, text: str) -> str:
        """`text` with the image's own paths and user replaced by the test's."""
        return MOVED.sub(lambda match: str(os.getuid()) if match[0] == USER else f"{self.root}{match[0]}", text)

    def path(self, text: str) -> Path:
        return Path(self.move(text))

    def environment(self, stage: Stage) -> dict[str, str]:
        moved = {name: self.move(value) for name, value in stage.environment().items()}
        outside = {name: value for name, value in os.environ.items() if not name.startswith("CROSSKD_")}
        return {**outside, **moved, "PATH": moved["PATH"].replace("$PATH", os.environ["PATH"])}

    def workdir(self, stage: Stage) -> Path:
        instruction = stage.last("WORKDIR")
        folder = self.path(instruction.args[0]) if instruction else self.root
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def build(self, name: str, edit: Callable[[str], str] = str) -> Stage:
        """Build a stage and what it needs, once. `edit` changes the RUN lines of this stage alone."""
        stage = self.stages[name]
        if name in self._done:
            return stage
        self._done.add(name)
        if stage.parent:
            self.build(stage.parent.name)
        for instruction in stage.own:
            if instruction.name == "RUN":
                self._run(stage, edit(instruction.args[0]))
            elif instruction.name == "COPY":
                self._copy(stage, instruction)
        return stage

    def _run(self, stage: Stage, line: str) -> None:
        result = subprocess.run(
            ["/bin/sh", "-c", self.move(line)],
            cwd=self.workdir(stage),
            env=self.environment(stage),
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, f"RUN {line}\n{result.stdout}{result.stderr}"

    def _copy(self, stage: Stage, instruction: DockerfileInstruction) -> None:
        ((origin, names, destination),) = copies(Stage("", "", None, [instruction]))
        if origin:
            self.build(origin)
        for name in names:
            source = self.path(name) if origin else ROOT / name
            target = self.workdir(stage) / self.move(destination)
            if source.is_dir():
                if source != target:  # stages share one root here: what one made already lies in its place
                    shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
