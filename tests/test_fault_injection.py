"""Small parts of the scripts in tests/faults: code in files, kills, full disks, signals."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faults import code_paths, full_disk, kills
from helpers import REPOSITORY

from facenet_d2 import UserError
from facenet_d2.engine import run_command
from facenet_d2.engine.downloads import ALLOW, check_weights_address
from facenet_d2.files import replaced
from facenet_d2.signals import STOP_SIGNALS, StopRequested, stop_requests


@pytest.fixture(scope="module")
def create():
    with code_paths.places() as create:
        yield create


@pytest.mark.parametrize("name", ["pickle", "tar", "TorchScript", "EPS", "weights by http"])
def test_the_payloads_do_harm_if_read_carelessly(create, name):
    assert code_paths.does_harm(code_paths.CONTROLS[name], create())


@pytest.mark.parametrize("name", code_paths.QUICK)
def test_no_file_executes_code_or_starts_a_download(create, name):
    inert, what = code_paths.try_path(code_paths.PATHS[name], create())
    assert inert, what


class Config:
    def __init__(self, weights):
        self.MODEL = self
        self.WEIGHTS = weights


def test_addresses_are_downloaded_on_request(monkeypatch):
    monkeypatch.delenv(ALLOW, raising=False)
    address = Config("https://example.org/model.pth")
    with pytest.raises(UserError, match="is not downloaded unless you ask for it"):
        check_weights_address(address, ["SEED", "1"])
    check_weights_address(address, ["SEED", "1", "MODEL.WEIGHTS", address.WEIGHTS])
    monkeypatch.setenv(ALLOW, "1")
    check_weights_address(address, [])
    monkeypatch.setenv(ALLOW, "0")
    with pytest.raises(UserError, match="is not downloaded"):
        check_weights_address(address, [])
    for name in ("detectron2://a/b.pkl", "torchvision://ResNet18_Weights.DEFAULT", "zoo://x", "a"):
        check_weights_address(Config(name), [])


def test_killed_while_saving():
    figures = kills.kill_saves(10, seed=3)
    assert (figures.resumed, figures.left) == (10, 0)


@pytest.mark.parametrize(
    "writer",
    ["checkpoint", "last_checkpoint", "run.json", "config.yaml", "predictions of an evaluation"],
)
def test_a_full_disk_leaves_whole_files(tmp_path, scenes, writer):
    assert full_disk.try_writer(writer, tmp_path, scenes, points=4) == []


@pytest.fixture(autouse=True)
def signals_of_a_terminal():
    """Handle the signals by default: nohup, for example, ignores SIGHUP in all child processes."""
    before = [
        (s, signal.signal(s, signal.SIG_DFL))
        for s in STOP_SIGNALS
        if signal.getsignal(s) == signal.SIG_IGN
    ]
    yield
    for signum, handler in before:
        signal.signal(signum, handler)


@pytest.mark.parametrize("signum", STOP_SIGNALS)
def test_every_command_cleans_up_after_a_signal(tmp_path, capsys, signum):
    def command():
        with replaced(tmp_path / "a.json") as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signum)
            time.sleep(5)

    before = [signal.getsignal(s) for s in STOP_SIGNALS]
    assert run_command(command) == 128 + signum
    assert capsys.readouterr().err == "interrupted\n"
    assert [*tmp_path.iterdir()] == []
    assert [signal.getsignal(s) for s in STOP_SIGNALS] == before


def test_an_ignored_signal_stays_ignored(capsys):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run_command(lambda: os.kill(os.getpid(), signal.SIGHUP)) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


class Finalised:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)


def test_no_signal_is_lost_in_a_finaliser():
    """Python does not pass exceptions on from there."""

    def finalise():
        Finalised()
        time.sleep(5)

    with pytest.raises(StopRequested, match="SIGTERM"), stop_requests():
        finalise()


def test_no_signal_is_lost_in_a_fork():
    sender = subprocess.Popen(["sh", "-c", f"sleep 0.3; kill -HUP {os.getpid()}"])

    def fork_on_and_on():
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            child = os.fork()
            if child == 0:
                os._exit(0)
            os.waitpid(child, 0)

    with pytest.raises(StopRequested, match="SIGHUP"), stop_requests():
        fork_on_and_on()
    sender.wait()


def test_a_signal_in_a_slow_fork_takes_effect_soon_after_it():
    """Also if the next fork follows at once and takes longer than the handler waits elsewhere."""
    script = """if True:
        import os, signal, time
        from facenet_d2.signals import StopRequested, stop_requests

        forks = 0

        def slowly():
            if forks == 1:
                os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.06)

        os.register_at_fork(before=slowly)
        try:
            with stop_requests():
                for forks in range(1, 30):
                    if (child := os.fork()) == 0:
                        os._exit(0)
                    os.waitpid(child, 0)
        except StopRequested as stop:
            print(stop, forks)
    """
    output = subprocess.check_output([sys.executable, "-c", script], cwd=REPOSITORY, text=True)
    assert output.startswith("stopped by SIGHUP")
    assert int(output.split()[-1]) <= 2


def start_command(script, preparation, *arguments):
    return subprocess.Popen(
        [sys.executable, script, *arguments],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
        preexec_fn=preparation,
    )


def wait_for_library(process, name):
    """Wait until a process has loaded a library, that is, imports modules."""
    deadline = time.monotonic() + 60
    while name not in Path(f"/proc/{process.pid}/maps").read_text():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("script", "library"),
    [
        ("train_net.py", "_multiarray_umath"),
        ("demo/demo.py", "libtorch_cpu"),
        ("tools/summarize_runs.py", "libtorch_python"),
    ],
)
def test_ctrl_c_while_modules_are_imported(script, library):
    process = start_command(script, lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), "--help")
    wait_for_library(process, library)
    os.killpg(process.pid, signal.SIGINT)
    printed, _ = process.communicate(timeout=60)
    assert printed == ""
    # A shell reports it as 130.
    assert process.returncode == -signal.SIGINT


def test_an_ignored_ctrl_c_does_not_stop_the_imports():
    process = start_command(
        "tools/summarize_runs.py", lambda: signal.signal(signal.SIGINT, signal.SIG_IGN), "--help"
    )
    wait_for_library(process, "_multiarray_umath")
    os.killpg(process.pid, signal.SIGINT)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "usage" in printed
