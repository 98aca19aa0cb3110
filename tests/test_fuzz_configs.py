"""A small part of the fuzzer of configs; tests/fuzz/configs.py runs all of it."""

from functools import partial

from fuzz import configs, harness
from helpers import write_tiny_config

from facenet_d2.engine import setup


def test_mutated_configs():
    """Some are refused, the others train a step and predict."""
    # Tests can run on a busy machine, so the limit of time is generous.
    outcomes = list(harness.run_cases(configs.generate(16, seed=3), seconds=120))
    faults = [(name, o.kind, o.detail) for name, o in outcomes if o.kind not in harness.GOOD]
    assert faults == []
    assert {outcome.kind for _, outcome in outcomes} == set(harness.GOOD)


def test_the_check_notices_values_without_sense(tmp_path, scenes, monkeypatch):
    """With a table that allows everything, the fuzzer's own check fails."""
    monkeypatch.setattr(setup, "check_values", lambda cfg: None)
    file = write_tiny_config(tmp_path, scenes)
    key = "MODEL.SOLOV2.DICE_WEIGHT"
    for value in ("-3.0", "1e999"):
        check = partial(configs.check_config, file, [key, value], [key])
        outcome = harness.run_case(check, seconds=120, memory=harness.MEMORY)
        assert outcome.kind == "wrong"
        assert key in outcome.detail
