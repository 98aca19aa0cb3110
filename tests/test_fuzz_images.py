"""A part of the fuzzer of images; see ``fuzz/images.py``."""

from detectron2.data import detection_utils
from fuzz import harness, images


def test_valid_and_damaged_images():
    images.mappers()  # Built once, before the processes are forked.
    outcomes = dict(harness.run_cases(images.generate(60, seed=7)))
    assert len(outcomes) == 60
    faults = {n: o for n, o in outcomes.items() if o.kind not in harness.GOOD}
    assert faults == {}
    assert {o.kind for o in outcomes.values()} == set(harness.GOOD)


def test_the_fuzzer_finds_a_reader_that_drops_a_band(monkeypatch):
    """The check fails for Detectron2's reader, which this project's replaces."""
    monkeypatch.setattr(
        images, "read_image", lambda file, format: detection_utils.read_image(str(file), format)
    )
    outcomes = harness.run_cases(images.generate(20, seed=7))
    assert any(outcome.kind == "wrong" for _, outcome in outcomes)
