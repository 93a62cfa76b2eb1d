"""A term gets what its section says that it needs, and what no term needs is not made."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch

from crosskd.detectors.dense.view import HOW
from crosskd.detectors.detr.view import HOW as DETR_HOW
from crosskd.detectors.two_stage.view import HOW as REGIONS_HOW
from crosskd.distill.distiller import Distiller, build_distiller
from crosskd.distill.term import Step, Term
from crosskd.spec import registry
from crosskd.spec.config import DistillConfig
from crosskd.spec.distill.needs import AnchorPredictions, HeadCut, Need, Pyramid
from tests.support import small
from tests.support.steps import Witness

MAPS, SAID = {"features"}, {"predictions", "assignment"}

# What each term gets: of the student, of the teacher; and what the teacher's head has to do for it.
TERMS: dict[str, tuple[set[str], set[str], set[str]]] = {
    "crosskd": ({"held"}, {"held"} | SAID, {"front", "back", "assign"}),
    "pkd": (MAPS, MAPS, set()),
    "direct": (SAID, SAID, {"front", "back", "assign"}),
    "ld": (SAID, SAID, {"front", "back", "assign"}),
    "fitnet": (MAPS, MAPS, set()),
    "fgd": (MAPS, MAPS, set()),
    "mgd": (MAPS, MAPS, set()),
    "cwd": (MAPS, MAPS, set()),
    "skd": (MAPS, MAPS, set()),
    "bckd": (SAID, SAID, {"front", "back", "assign"}),
    "imitation": (MAPS | {"assignment"}, MAPS, set()),
    "fgfi": (MAPS | {"anchors"}, MAPS, set()),
    "defeat": (MAPS, MAPS, set()),
    "gid": (MAPS | SAID, MAPS | SAID, {"front", "back", "assign"}),
}


def distiller(*names: str, **teacher: Any) -> Distiller:
    config = DistillConfig.model_validate({name: {} for name in names})
    return build_distiller(small.detector(0), small.detector(1, **teacher), config).train()


def term_of(pair: Distiller, name: str) -> Term:
    term = pair.terms[name]
    assert isinstance(term, Term)
    return term


def watched(pair: Distiller) -> set[str]:
    """What the teacher's head does from now on."""
    done: set[str] = set()

    def watch(name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            done.add(name)
            return plain(*args, **kwargs)

        return call

    for name in ("front", "back", "assign"):
        setattr(pair.teacher.head, name, watch(name, getattr(pair.teacher.head, name)))
    return done


def test_every_term_and_every_kind_of_need_is_here() -> None:
    assert set(TERMS) == set(registry.TERMS)
    assert {*HOW, *REGIONS_HOW, *DETR_HOW} == set(Need.__subclasses__())
    config = DistillConfig.model_validate({name: {} for name in TERMS})
    asked = [need for section in config.terms().values() for need in section.needs(small.config(), small.config())]
    assert {type(need) for need in asked} == set(HOW)


@pytest.mark.parametrize("name", TERMS)
def test_a_term_gets_what_it_needs_and_nothing_else_is_made(name: str) -> None:
    of_student, of_teacher, by_teacher = TERMS[name]
    # Where it may, the teacher has anchors of its own: they would have to be assigned.
    pair = distiller(name, **({} if of_student >= SAID else {"anchor_scale": 4.0}))
    seen: list[Step] = []
    done, before = watched(pair), set()

    def look(_: Any, arguments: tuple[Step]) -> None:
        seen.append(arguments[0])
        before.update(done)

    term_of(pair, name).register_forward_pre_hook(look)
    pair(*small.batch())
    (step,) = seen
    assert vars(step.student).keys() == {"head"} | of_student
    assert vars(step.teacher).keys() == {"head"} | of_teacher
    assert before == by_teacher


@pytest.mark.parametrize("name", TERMS)
def test_a_term_asks_for_nothing_that_it_does_not_read(name: str) -> None:
    pair = distiller(name)
    term = term_of(pair, name)
    needs = term.needs
    assert needs
    for left_out in needs:
        term.needs = tuple(need for need in needs if need != left_out)
        with pytest.raises(AttributeError, match="'View' object has no attribute"):
            pair(*small.batch())
    term.needs = needs
    assert any(name_of.startswith(name) for name_of in pair(*small.batch()))


def test_a_term_that_asks_for_nothing_gets_nothing() -> None:
    witness = Witness()
    pair = Distiller(small.detector(0), small.detector(1, anchor_scale=4.0), {"witness": witness}).train()
    done = watched(pair)
    losses, alone = pair(*small.batch()), pair.student(*small.batch())
    assert losses.keys() == alone.keys()
    assert all(torch.equal(losses[name], values) for name, values in alone.items())
    (step,) = witness.steps
    assert vars(step.student).keys() == vars(step.teacher).keys() == {"head"}
    assert done == set()


@pytest.mark.parametrize(("terms", "kept"), [(("crosskd",), False), (("crosskd", "pkd"), True)])
def test_the_teachers_pyramid_goes_before_the_students_head_runs_if_no_term_needs_it(
    terms: tuple[str, ...], kept: bool
) -> None:
    pair, maps = distiller(*terms), list[weakref.ref[torch.Tensor]]()
    pair.teacher.neck.register_forward_hook(lambda _module, _given, out: maps.extend(weakref.ref(x) for x in out))
    front, alive = pair.student.head.front, list[bool]()

    def watch(*args: Any, **kwargs: Any) -> Any:
        alive.extend(x() is not None for x in maps)
        return front(*args, **kwargs)

    pair.student.head.front = watch
    pair(*small.batch())
    assert alive == [kept] * 5


@pytest.mark.parametrize("after_relu", [True, False])
def test_each_term_gets_the_cut_that_it_asks_for(after_relu: bool) -> None:
    pair = distiller("crosskd")
    alone = pair(*small.batch())
    witness = Witness(HeadCut(1, 2, after_relu))
    pair.terms["witness"] = witness
    together = pair(*small.batch())
    assert all(torch.equal(together[name], values) for name, values in alone.items())
    (step,) = witness.steps
    images, _ = small.batch()
    for view, model, cut in ((step.student, pair.student, 1), (step.teacher, pair.teacher, 2)):
        expected = model.head.front(model.features(images), cut, after_relu=after_relu)
        assert view.held.activated == after_relu
        for ours, theirs in zip([*view.held.cls, *view.held.box], [*expected.cls, *expected.box], strict=True):
            assert torch.equal(ours, theirs)


def test_what_two_terms_need_is_made_once() -> None:
    first, second = (Witness(Pyramid(), AnchorPredictions(both=True), HeadCut(2, 2)) for _ in range(2))
    pair = Distiller(small.detector(0), small.detector(1), {"first": first, "second": second}).train()
    calls: list[int] = []
    for model in (pair.student, pair.teacher):
        front = model.head.front
        model.head.front = lambda *args, front=front, **kwargs: (calls.append(args[1]), front(*args, **kwargs))[1]
    pair(*small.batch())
    assert calls == [2, 2]  # once in each model
    for side in ("student", "teacher"):
        ours, theirs = (vars(getattr(witness.steps[0], side)) for witness in (first, second))
        assert all(ours[name] is theirs[name] for name in ours)
