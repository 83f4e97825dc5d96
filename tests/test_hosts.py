"""Two hosts: network namespaces joined by a pair of virtual interfaces, and DeepSpeed's own launcher over them."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from test_processes import BIN, ROOT, losses, ranks, steps, until, words

pytestmark = pytest.mark.alone

HOSTS = {f"cl-{os.getpid()}-a": "10.77.0.1", f"cl-{os.getpid()}-b": "10.77.0.2"}
"""Of this process: a test that was killed leaves its own behind."""
INTERFACE = "cl0"
"""The same name on both: DeepSpeed hands one GLOO_SOCKET_IFNAME on to all hosts."""


def ip(*arguments):
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@pytest.fixture
def hosts():
    if shutil.which("ip") is None:
        pytest.skip("network namespaces are made with ip, of iproute2, which is not installed")
    made = []
    try:
        for name in HOSTS:
            ip("netns", "add", name)
            made.append(name)
        first, second = HOSTS
        pair = ("type", "veth", "peer", "name", INTERFACE, "netns", second)
        ip("link", "add", INTERFACE, "netns", first, *pair)
        for name, address in HOSTS.items():
            ip("-n", name, "addr", "add", f"{address}/24", "dev", INTERFACE)
            for device in (INTERFACE, "lo"):
                ip("-n", name, "link", "set", device, "up")
    except subprocess.CalledProcessError as error:
        for name in made:
            ip("netns", "del", name)
        pytest.skip(f"this machine makes no network namespaces: {error.stderr.strip()}")
    yield
    for name in HOSTS:
        left = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False).stdout.split()
        for process in left:
            with suppress(ProcessLookupError):
                os.kill(int(process), 9)
        ip("netns", "del", name)


def environment():
    paths = os.pathsep.join([str(ROOT), *sys.path])
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "GLOO_SOCKET_IFNAME": INTERFACE}


def within(host, command, log):
    return subprocess.Popen(
        ["ip", "netns", "exec", host, *command],
        cwd=ROOT,
        env=environment(),
        stdout=log.open("w"),
        stderr=subprocess.STDOUT,
    )


def codes(folder):
    return {path.name: json.loads(path.read_text())["code"] for path in folder.glob("exit.*.json")}


def on_both(folder, **values):
    """A launcher on each host, by a list of hosts and without ssh; their output is `folder`'s logs."""
    listed = folder / "hosts"
    listed.write_text("".join(f"{address} slots=1\n" for address in HOSTS.values()))
    files = ["--gin", "gin/scale/hosts.gin", "--param", "PROCESSES = 2"]
    arguments = [*words(2, **values), *files, "--out", str(folder / "run")]
    address = next(iter(HOSTS.values()))
    launch = [str(BIN / "deepspeed"), "--hostfile", str(listed), "--no_ssh"]
    launch += ["--master_addr", address, "--master_port", "29533"]
    return [
        within(host, [*launch, "--node_rank", str(number), "tools/train.py", *arguments], folder / f"{number}.log")
        for number, host in enumerate(HOSTS)
    ]


def said(folder):
    return "".join(log.read_text() for log in sorted(folder.glob("*.log")))


@pytest.mark.slow
def test_two_hosts_by_a_list_of_hosts_without_ssh(hosts, tmp_path):
    out, running = tmp_path / "run", on_both(tmp_path, cl__train__steps=6, cl__train__timeout=180.0)
    assert [each.wait(timeout=200) for each in running] == [0, 0], said(tmp_path)[-3000:]
    assert codes(out) == {"exit.0.json": 0, "exit.1.json": 0} and sorted(losses(out)) == list(range(1, 7))
    assert json.loads((out / "summary.json").read_text())["processes"] == 2


LOST = "Rank 0: rank 1 was lost"
FAULTS = {
    "the other host's process is killed": ("kill -9 {1}", {0: 6}, [LOST]),
    "the first host's process is killed": ("kill -9 {0}", {1: 6}, ["Rank 1: rank 0 was lost, or the launcher"]),
    "the other host's process is told to end": ("kill -TERM {1}", {0: 143, 1: 143}, ["Stopped by SIGTERM after step"]),
    "the other host's launcher is killed": ("kill -9 {launcher}", {0: 143, 1: 143}, ["Stopped by SIGTERM after step"]),
    "the cable is pulled": (
        f"ip -n {{host}} link set {INTERFACE} down",
        {0: 6, 1: 6},
        [LOST, "Rank 1: rank 0 was lost, or the launcher"],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_what_happens_on_one_host_ends_both(fault, hosts, tmp_path):
    """Whoever was not killed says why with a code of its own, and no process is left."""
    command, wanted, messages = FAULTS[fault]
    out, launchers = tmp_path / "run", on_both(tmp_path, cl__train__steps=100000, cl__train__timeout=30.0)
    until(lambda: len(steps(out)) >= 3, launchers[0])
    found = ranks(out)
    assert sorted(found) == [0, 1]
    # `ip netns exec` replaces itself, so the launcher is the process that was started.
    where = {"host": [*HOSTS][1], "launcher": launchers[1].pid}
    subprocess.run(command.format(found[0].pid, found[1].pid, **where).split(), check=True)
    for each in launchers:
        each.wait(timeout=120)
    _gone, alive = psutil.wait_procs(found.values(), timeout=60)
    log = said(tmp_path)
    assert not alive and codes(out) == {f"exit.{rank}.json": code for rank, code in wanted.items()}, log[-3000:]
    assert all(each in log for each in messages), log[-3000:]
    assert (out / "checkpoints").exists() == (143 in wanted.values())


@pytest.fixture
def ssh(hosts, tmp_path):
    """A server of ssh on each host, and a client on PATH that gets in without a question."""
    server = shutil.which("sshd", path="/usr/sbin:/usr/bin:/sbin")
    if server is None or shutil.which("pdsh") is None:
        pytest.skip("sshd or pdsh is not installed")
    Path("/run/sshd").mkdir(exist_ok=True)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    (tmp_path / "sshd_config").write_text(
        f"HostKey {tmp_path}/host\nAuthorizedKeysFile {tmp_path}/user.pub\nStrictModes no\nUsePAM no\nPidFile none\n"
    )
    (tmp_path / "ssh_config").write_text(
        f"IdentityFile {tmp_path}/user\nStrictHostKeyChecking no\nUserKnownHostsFile /dev/null\nLogLevel ERROR\n"
    )
    client = tmp_path / "bin" / "ssh"
    client.parent.mkdir()
    client.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {tmp_path}/ssh_config "$@"\n')
    client.chmod(0o755)
    servers = [
        subprocess.Popen(["ip", "netns", "exec", host, server, "-D", "-e", "-f", tmp_path / "sshd_config"])
        for host in HOSTS
    ]
    yield client.parent
    for each in servers:
        each.kill()
        each.wait()


@pytest.mark.slow
def test_two_hosts_by_a_list_of_hosts_over_ssh(ssh, tmp_path):
    listed, variables = tmp_path / "hosts", tmp_path / "variables"
    listed.write_text("".join(f"{address} slots=1\n" for address in HOSTS.values()))
    handed_on = environment()
    variables.write_text(f"OMP_NUM_THREADS=1\nGLOO_SOCKET_IFNAME={INTERFACE}\n")
    out, log = tmp_path / "run", tmp_path / "log"
    first, address = next(iter(HOSTS.items()))
    launch = [str(BIN / "deepspeed"), "--hostfile", str(listed), "--launcher", "pdsh"]
    launch += ["--master_addr", address, "--master_port", "29534"]
    arguments = [
        *words(3, cl__train__steps=6, cl__train__timeout=180.0),
        "--gin",
        "gin/scale/hosts.gin",
        "--param",
        "PROCESSES = 2",
    ]
    process = subprocess.Popen(
        ["ip", "netns", "exec", first, *launch, "tools/train.py", *arguments, "--out", str(out)],
        cwd=ROOT,
        env=handed_on | {"PATH": f"{ssh}:{handed_on['PATH']}", "DS_ENV_FILE": str(variables)},
        stdout=log.open("w"),
        stderr=subprocess.STDOUT,
    )
    assert process.wait(timeout=200) == 0, log.read_text()[-3000:]
    assert codes(out) == {"exit.0.json": 0, "exit.1.json": 0} and sorted(losses(out)) == list(range(1, 7))


@pytest.mark.slow
@pytest.mark.parametrize("listed", [None, "127.0.0.1 slots=1\n"])
def test_a_list_that_is_missing_or_short_is_refused_and_not_run_on_one_host(listed, tmp_path):
    """A short one where it was said how many processes there must be."""
    if listed is None:
        how, asked = ["--num_accelerators", "1"], []
        why = f"The launcher's list of hosts, {tmp_path}/hosts, is not there"
    else:
        (tmp_path / "hosts").write_text(listed)
        how = ["--no_ssh", "--node_rank", "0", "--master_addr", "127.0.0.1"]
        asked = ["--gin", "gin/scale/hosts.gin", "--param", "PROCESSES = 2"]
        why = "cl.train.processes is 2, and the launcher started 1"
    launch = [str(BIN / "deepspeed"), "--hostfile", str(tmp_path / "hosts"), *how, "--master_port", "29535"]
    arguments = [*words(1, cl__train__steps=2), *asked]
    done = subprocess.run(
        [*launch, "tools/train.py", *arguments, "--out", str(tmp_path / "run")],
        cwd=ROOT,
        env=environment() | {"GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 2 and why in done.stderr + done.stdout
    assert not (tmp_path / "run").exists()
