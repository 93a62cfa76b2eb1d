"""Parameter names: ours and MMDetection's, one to one."""

from __future__ import annotations

import re

from crosskd.errors import WeightsError

# Ours (a pattern over whole names) and theirs; \1 stands for what the group in the pattern caught.
_PAIRS = [
    (r"backbone\.(.+)", r"backbone\.(.+)"),
    (r"neck\.lateral\.(\d+)\.(weight|bias)", r"neck\.lateral_convs\.(\d+)\.conv\.(weight|bias)"),
    (r"neck\.output\.(\d+)\.(weight|bias)", r"neck\.fpn_convs\.(\d+)\.conv\.(weight|bias)"),
    (r"head\.cls_tower\.(\d+)\.conv\.(weight)", r"bbox_head\.cls_convs\.(\d+)\.conv\.(weight)"),
    (r"head\.cls_tower\.(\d+)\.norm\.(weight|bias)", r"bbox_head\.cls_convs\.(\d+)\.gn\.(weight|bias)"),
    (r"head\.box_tower\.(\d+)\.conv\.(weight)", r"bbox_head\.reg_convs\.(\d+)\.conv\.(weight)"),
    (r"head\.box_tower\.(\d+)\.norm\.(weight|bias)", r"bbox_head\.reg_convs\.(\d+)\.gn\.(weight|bias)"),
    (r"head\.cls\.(weight|bias)", r"bbox_head\.gfl_cls\.(weight|bias)"),
    (r"head\.box\.(weight|bias)", r"bbox_head\.gfl_reg\.(weight|bias)"),
    (r"head\.scales\.(\d+)", r"bbox_head\.scales\.(\d+)\.scale"),
    (r"head\.bins", r"bbox_head\.integral\.project"),
]
_GROUP = re.compile(r"\([^()]*\)")


def _fill(pattern: str, groups: tuple[str, ...]) -> str:
    """The name that a pattern matches when its groups caught `groups`."""
    parts = iter(groups)
    return _GROUP.sub(lambda _: next(parts).replace("\\", ""), pattern).replace("\\.", ".")


def _translate(name: str, source: int) -> str:
    for pair in _PAIRS:
        if match := re.fullmatch(pair[source], name):
            return _fill(pair[1 - source], match.groups())
    whose = ("this project's", "MMDetection's")[source]
    raise WeightsError(f"{name!r} is not one of {whose} names for a GFL detector", remedy="Use weights of a GFL model.")


def to_mmdet(name: str) -> str:
    """Our name -> MMDetection's. Raises `WeightsError` for a name that we do not have."""
    return _translate(name, 0)


def from_mmdet(name: str) -> str:
    """MMDetection's name -> ours. Raises `WeightsError` for a name that a GFL detector does not have."""
    return _translate(name, 1)
