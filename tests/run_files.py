"""Recorded files of trainings, read plainly."""

import json

import yaml


def read_metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.json").open()]


def final(folder):
    """Read the metrics after the last iteration."""
    lines = read_metrics(folder)
    *_, last = (line for line in lines if "segm/AP" in line)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert last["iteration"] == max(line["iteration"] for line in lines)
    assert last["iteration"] == config["SOLVER"]["MAX_ITER"]
    return last


def flat(config, prefix=""):
    """Return {dotted key: value} of a nested dictionary."""
    found = {}
    for key, value in config.items():
        found |= (
            flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return found
