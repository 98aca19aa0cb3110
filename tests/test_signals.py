"""Handlers of the signals that stop a command."""

import os
import signal

import pytest

from facenet_d2.signals import STOP_SIGNALS, ignore_stop_signals, restore_handlers, set_handlers


@pytest.fixture(autouse=True)
def handlers():
    before = {s: signal.getsignal(s) for s in STOP_SIGNALS}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.mark.parametrize("ignored", [(), (signal.SIGHUP,), (signal.SIGINT, signal.SIGUSR1)])
@pytest.mark.parametrize("always_ctrl_c", [False, True])
def test_ignored_signals_stay_ignored(ignored, always_ctrl_c):
    for signum in STOP_SIGNALS:
        signal.signal(signum, signal.SIG_IGN if signum in ignored else signal.default_int_handler)
    before = {s: signal.getsignal(s) for s in STOP_SIGNALS}
    received = []
    previous = set_handlers(
        lambda signum, frame: received.append(signum), always_ctrl_c=always_ctrl_c
    )
    for signum in STOP_SIGNALS:
        os.kill(os.getpid(), signum)
    expected = {*STOP_SIGNALS} - {*ignored}
    if always_ctrl_c:
        expected.add(signal.SIGINT)
    assert {*received} == expected
    restore_handlers(previous)
    assert {s: signal.getsignal(s) for s in STOP_SIGNALS} == before


def test_workers_ignore_the_signals():
    ignore_stop_signals()
    for signum in STOP_SIGNALS:
        os.kill(os.getpid(), signum)
    assert {signal.getsignal(s) for s in STOP_SIGNALS} == {signal.SIG_IGN}
