"""Nothing that comes from outside is run or unpickled."""

from __future__ import annotations

import ast

import pytest

from tests.support.sources import PACKAGES, ROOT, sources

# Calls that run what they read. Each could turn a file or a job into code.
FORBIDDEN_CALLS = {
    "pickle.load": "read safetensors or JSON",
    "pickle.loads": "read safetensors or JSON",
    "pickle.Unpickler": "read safetensors or JSON",
    "marshal.load": "read JSON",
    "marshal.loads": "read JSON",
    "shelve.open": "use the database",
    "yaml.load": "use yaml.safe_load",
    "yaml.load_all": "use yaml.safe_load_all",
    "yaml.full_load": "use yaml.safe_load",
    "yaml.unsafe_load": "use yaml.safe_load",
    "os.system": "use subprocess with a list of arguments",
    "eval": "parse the value",
    "exec": "call a function",
}


def dangers(source: str) -> list[str]:
    """The calls in `source` that could run what they read, as `line: why`. Follows import aliases."""
    tree = ast.parse(source)
    names: dict[str, str] = {}  # local name → dotted name
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update({alias.asname: alias.name for alias in node.names if alias.asname})
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})

    def dotted(node: ast.expr) -> str:
        if isinstance(node, ast.Attribute):
            return f"{dotted(node.value)}.{node.attr}"
        return names.get(node.id, node.id) if isinstance(node, ast.Name) else ""

    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        true_keywords = {k.arg for k in node.keywords if isinstance(k.value, ast.Constant) and k.value.value is True}
        if name in FORBIDDEN_CALLS:
            found.append(f"{node.lineno}: {name}: {FORBIDDEN_CALLS[name]}")
        elif name == "torch.load" and "weights_only" not in true_keywords:
            found.append(f"{node.lineno}: torch.load without weights_only=True unpickles code")
        elif name.startswith("subprocess.") and "shell" in true_keywords:
            found.append(f"{node.lineno}: {name} through a shell: pass a list of arguments")
        elif name == "numpy.load" and "allow_pickle" in true_keywords:
            found.append(f"{node.lineno}: numpy.load(allow_pickle=True) unpickles code")
    return found


def test_nothing_from_outside_is_run() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{danger}"
        for path in sources(*PACKAGES, "migrations")
        for danger in dangers(path.read_text())
    ]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.load(file)",
        "from pickle import loads as parse\nparse(data)",
        "import torch\ntorch.load(path)",
        "import torch as t\nt.load(path, weights_only=False)",
        "from torch import load\nload(path, weights_only=flag)",
        "import yaml\nyaml.load(text, Loader=yaml.Loader)",
        "import subprocess\nsubprocess.run(line, shell=True)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "eval(text)",
    ],
)
def test_a_planted_danger_is_found(source: str) -> None:
    assert len(dangers(source)) == 1


def test_the_safe_ways_are_allowed() -> None:
    assert (
        dangers(
            "import torch, yaml, subprocess\ntorch.load(p, weights_only=True)\nyaml.safe_load(t)\nsubprocess.run([a])"
        )
        == []
    )
