"""Training under torchrun, with two processes on the CPU."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from helpers import REPOSITORY
from programs import run_program

import train_net
from facenet_d2 import UserError
from facenet_d2.engine import run_command, torchrun

# More threads than cores would slow the processes down.
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
WORKER = {
    "RANK": "3",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "4",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "localhost",
    "MASTER_PORT": "1",
}


def test_a_killed_process_is_restarted_and_resumes(tiny_config, tmp_path):
    """The weights are those of an uninterrupted training with --num-gpus 2."""
    overrides = ["SOLVER.MAX_ITER", "6", "SOLVER.CHECKPOINT_PERIOD", "2", "OUTPUT_DIR"]
    output = tmp_path / "restarted"
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *("--max-restarts", "1", "train_net.py", "--config-file", tiny_config),
        *(*overrides, output),
    ]
    with (tmp_path / "printed.txt").open("w") as printed:
        process = subprocess.Popen(
            list(map(str, command)), cwd=REPOSITORY, env=ENVIRONMENT, stdout=printed, stderr=printed
        )
        try:
            deadline = time.monotonic() + 120
            while not (output / "last_checkpoint").exists():
                assert process.poll() is None, (tmp_path / "printed.txt").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.02)
            # The main process, which holds the lock.
            os.kill(int((output / ".lock").read_text()), signal.SIGKILL)
            code = process.wait(120)
        finally:
            # torchrun ends its processes, too.
            process.terminate()
            process.wait()
    text = (tmp_path / "printed.txt").read_text()
    assert code == 0, text[-3000:]
    # Both the first session and the one that resumes.
    starts = list(map(int, re.findall(r"Starting training from iteration (\d+)", text)))
    assert starts[0] == 0
    assert starts[1] in (2, 4)
    sessions = json.loads((output / "run.json").read_text())["sessions"]
    assert [s["processes"] for s in sessions] == [2, 2]
    assert text.count("Evaluation results for segm") == text.count("Results, logs") == 1
    arguments = ["--fork", "--config-file", tiny_config, "--num-gpus", 2, *overrides]
    arguments += [tmp_path / "plain", "DATASETS.TEST", "()"]
    run_program("tests/gloo_train_net.py", arguments, tmp_path / "plain.txt")
    restarted, plain = (
        torch.load(folder / "model_final.pth", weights_only=True)["model"]
        for folder in (output, tmp_path / "plain")
    )
    assert restarted.keys() == plain.keys()
    for name, value in plain.items():
        torch.testing.assert_close(restarted[name], value, rtol=0, atol=0)


def set_environment(monkeypatch, **changes):
    for name, value in (WORKER | changes).items():
        monkeypatch.setenv(name, value)


def test_a_process_of_torchrun_is_recognised(monkeypatch):
    set_environment(monkeypatch)
    assert torchrun.is_worker()
    # Kubeflow, for example, sets some of the variables for a single process.
    monkeypatch.delenv("LOCAL_RANK")
    assert not torchrun.is_worker()


def test_each_process_needs_a_gpu_or_none_has_one(monkeypatch):
    set_environment(monkeypatch)
    for gpus in (0, 2, 8):
        monkeypatch.setattr(torch.cuda, "device_count", lambda n=gpus: n)
        torchrun.check_local_processes()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="use --nproc-per-node 1"):
        torchrun.check_local_processes()


def test_one_process_of_a_machine_reports_an_error(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["train_net.py", "--config-file", str(tmp_path / "none.yaml")])
    set_environment(monkeypatch, LOCAL_RANK="0")
    assert run_command(train_net.run) == 2
    assert capsys.readouterr().err.startswith("error: config file")
    set_environment(monkeypatch, LOCAL_RANK="1")
    with pytest.raises(SystemExit, match="2"):
        run_command(train_net.run)
    assert capsys.readouterr().err == ""


def test_options_that_start_processes_are_refused(monkeypatch, capsys, tiny_config):
    arguments = ["train_net.py", "--config-file", str(tiny_config), "--num-gpus", "2"]
    monkeypatch.setattr(sys, "argv", arguments)
    set_environment(monkeypatch, LOCAL_RANK="0")
    assert run_command(train_net.run) == 2
    assert "which torchrun has done; leave them out" in capsys.readouterr().err


def session_of(store, rank):
    """Return the future number of the session of one of two processes."""
    return ThreadPoolExecutor(1).submit(torchrun._agree_on_session, store(), rank, 2)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_sessions_do_not_mix(order):
    """Whichever process is first, none takes an answer of an earlier session for its own."""
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)

    def client():
        return dist.TCPStore(
            "127.0.0.1", server.port, is_master=False, timeout=timedelta(seconds=9)
        )

    for expected in (1, 2, 3):
        first = session_of(client, order[0])
        time.sleep(0.1)
        assert not first.done()
        assert session_of(client, order[1]).result(9) == first.result(9) == expected
