from __future__ import annotations

import gc

from crosskd.engine.imports import quick_imports


def test_nothing_is_collected_meanwhile_and_what_is_there_is_spared() -> None:
    frozen = gc.get_freeze_count()
    with quick_imports():
        assert not gc.isenabled()
        kept = [[number] for number in range(100)]
    assert gc.isenabled()
    assert gc.get_freeze_count() >= frozen + len(kept)
    gc.disable()
    try:
        with quick_imports():
            pass
        assert not gc.isenabled()  # whoever has turned it off turns it on again
    finally:
        gc.enable()
