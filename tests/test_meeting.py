"""Processes that are to meet: what keeps them from it, and what stops them before they have."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from cl.errors import ConfigError, PeerError
from cl.processes import interrupts, joined

ROOT = Path(__file__).parent.parent


@pytest.fixture
def launched(monkeypatch):
    """As rank 0 of two, at a port."""

    def at(port, rank=0):
        said = {"WORLD_SIZE": "2", "RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        for name, value in said.items():
            monkeypatch.setenv(name, value)

    return at


def test_a_port_that_is_taken_is_named(launched):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        launched(port)
        with pytest.raises(ConfigError, match=f"Port {port}.* is taken.*--master_port") as error, joined(None, 60.0):
            pass
    assert not error.value.shared, "the others wait for it"


def test_who_nobody_meets_says_how_long_it_waited(launched):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launched(port)
    with pytest.raises(PeerError, match=r"Rank 0 waited [12] s for all of 2 processes"), joined(None, 1.0):
        pass


def test_a_store_that_is_gone_once_all_have_met_is_a_peers(launched, monkeypatch):
    class Gone:
        def clone(self):
            raise torch.distributed.DistNetworkError("the server is gone")

    launched(29998)
    monkeypatch.setattr("cl.processes.rendezvous", lambda *_, **__: iter([(Gone(), 0, 2)]))
    monkeypatch.setattr("cl.processes.dist.init_process_group", lambda *_, **__: None)
    with (
        pytest.raises(PeerError, match=r"Rank 0 could not meet the 2 processes.*the server is gone"),
        joined(None, 60.0),
    ):
        pass


def test_an_address_that_is_none_is_not_waited_for(launched, monkeypatch):
    launched(29999, rank=1)
    monkeypatch.setenv("MASTER_ADDR", "no.such.host.invalid")
    with pytest.raises(PeerError, match=r"no\.such\.host\.invalid:29999"), joined(None, 2.0):
        pass


def test_the_second_sigint_interrupts_whatever_came_before():
    with interrupts() as caught:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert caught == [signal.SIGTERM, signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_what_came_between_two_runs_is_not_forgotten():
    handler = signal.getsignal(signal.SIGTERM)
    with interrupts() as outer:
        with interrupts():
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        with interrupts() as caught:
            assert caught == [signal.SIGTERM] and caught is outer
    assert signal.getsignal(signal.SIGTERM) == handler


LAUNCHER = """
import subprocess, sys
process = subprocess.Popen([sys.executable, *sys.argv[1:]])
print(process.pid, flush=True)
process.wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel is asked to end it, and Linux's can")
def test_who_has_not_met_the_others_ends_with_its_launcher(tmp_path):
    """Waiting for rank 1, which does not come, or not yet waiting."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    said = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    words = ["tools/train.py", "--gin", "gin/simclr.gin", "--out", str(tmp_path / "run")]
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, *words], cwd=ROOT, env=os.environ | said, stdout=subprocess.PIPE, text=True
    )
    assert launcher.stdout
    rank = psutil.Process(int(launcher.stdout.readline()))
    while "torch" not in Path(f"/proc/{rank.pid}/maps").read_text():  # so it is past its first lines
        time.sleep(0.01)
    launcher.kill()
    launcher.wait()
    rank.wait(timeout=120)
    assert not (tmp_path / "run").exists()
