# SPDX-License-Identifier: 0BSD
"""Start servers, run the load, repeat rounds, and print tables: the functions that all benchmarks use.

If there are two CPUs, the measured program has one, and its peer has the other. If the kernel placed them, the results
of the same server would differ by a factor of several.
"""

import argparse
import atexit
import contextlib
import ctypes
import functools
import importlib.util
import json
import os
import platform
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
HOST = "127.0.0.1"
C_PEER = "C (peers.c)"
START_TIMEOUT_S = 10.0
LOAD_TIMEOUT_S = 130.0  # The load generator stops after 120 s.
STOP_TIMEOUT_S = 5.0
POLL_S = 0.01
CLONE_NEWNET = 0x40000000  # unshare(2)
LEAST_CPU_S = 0.05  # CPU time has a resolution of 10 ms.
# the line that our servers, ncat -v and socat -d -d print
LISTENING = re.compile(rb"listening on .*?:(\d+)", re.IGNORECASE)

# asyncio's transports allocate 256 KiB for each read. glibc makes a system call for each allocation above a threshold,
# and raises the threshold when such a block is freed. A comparison must not depend on that. Before a command, these
# words raise this threshold and the one above which free() returns memory to the kernel.
KEEP_MEMORY = ["env", "MALLOC_MMAP_THRESHOLD_=1048576", "MALLOC_TRIM_THRESHOLD_=1048576"]

CPUS = sorted(os.sched_getaffinity(0))
MEASURED_CPU, OTHER_CPU = CPUS[0], CPUS[-1]


class Result(NamedTuple):
    """The result of one run.

    rate: connections, round trips or replies per second
    errors: how many of them failed
    busy: the share of the time in which the measured process used its CPU; far below 1, it waited for its peer
    """

    rate: float
    errors: int
    busy: float | None = None


def result(count, seconds, errors, used_s):
    # The CPU time includes a moment before the load starts, so that the quotient of a busy server can exceed 1.
    busy = min(1.0, used_s / seconds) if used_s >= LEAST_CPU_S else None
    return Result(count / seconds, errors, busy)


def start_benchmark(description, rounds, peer=None, options=()):
    """Parse the command line, move to the peer's CPU, and print the name of the machine.

    peer: the name of the measured programs' peer, if it is not the load generator
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="a tenth of the load, one round")
    for name, meaning in options:
        parser.add_argument(name, action="store_true", help=meaning)
    parser.add_argument("--rounds", type=int, default=rounds, help=f"default: {rounds}")
    args = parser.parse_args()
    if args.quick:
        args.rounds = 1
    args.scale = 0.1 if args.quick else 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # The exit stops the servers.
    # A background job of a shell ignores SIGINT, and the servers would inherit this.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.sched_setaffinity(0, {OTHER_CPU})
    if MEASURED_CPU != OTHER_CPU:
        os.environ["LOAD_SPINS"] = "1"
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # The servers inherit the limit.
    peer = peer or f"load generator: {'load.c' if build('load') else 'load.py'}"
    placed = f"{peer}, on CPU {OTHER_CPU}; measured on CPU {MEASURED_CPU}"
    others = f"load average before: {os.getloadavg()[0]:.1f}"
    print(f"{machine()}; {placed}; rounds: {args.rounds}; {others}", flush=True)
    return args


def enter_namespace():
    """Move to a network namespace that has only a loopback interface, for benchmarks that capture with scapy."""
    if not importlib.util.find_spec("scapy"):
        sys.exit("needs scapy: pip install scapy")
    if ctypes.CDLL(None).unshare(CLONE_NEWNET):
        sys.exit("needs root, for a network namespace")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def machine():
    model = platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{len(CPUS)} CPUs, {model}, {platform.system()} {platform.release()}, {python}"


@functools.cache
def build_directory():
    directory = tempfile.mkdtemp(prefix="netscripts-")
    atexit.register(shutil.rmtree, directory)
    return Path(directory)


@functools.cache
def build(name):
    """Compile `name`.c and return the path of the program; return None if there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not compiler:
        return None
    program = build_directory() / name
    built = subprocess.run([compiler, "-O2", "-o", program, HERE / f"{name}.c"], check=False)
    return str(program) if built.returncode == 0 else None


def python_peer(name):
    return [sys.executable, HERE / "peers.py", name, "0"]


def c_peer(job):
    """Return {name: command} of the C server, or an empty dict if it cannot be compiled."""
    return {C_PEER: [build("peers"), job, "0"]} if build("peers") else {}


def run_load(job, port, *numbers):
    program = [build("load")] if build("load") else [sys.executable, HERE / "load.py"]
    return subprocess.Popen(
        [*program, job, HOST, str(port), *map(str, numbers)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def load(job, port, *numbers):
    with run_load(job, port, *numbers) as process:
        try:
            output, _ = process.communicate(timeout=LOAD_TIMEOUT_S)
        finally:
            process.kill()
    return json.loads(output)


def cpu_s(pid):
    """Return the seconds of CPU time that a process and its finished children have used (proc_pid_stat(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def running(command, cpu=MEASURED_CPU):
    """Start a server on one CPU, yield its (port, process id) when it listens, and stop it."""
    # A server that logs a line for each connection would wait for the reader of a pipe, but not for a file.
    with (
        tempfile.TemporaryFile() as output,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output) as process,
    ):
        try:
            os.sched_setaffinity(process.pid, {cpu})
            yield wait_for_port(process, output), process.pid
        finally:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()


def wait_for_port(process, output):
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        log = os.pread(output.fileno(), 65_536, 0)
        if match := LISTENING.search(log):
            return int(match[1])
        if process.poll() is not None:
            break
        time.sleep(POLL_S)
    raise RuntimeError(f"did not start: {log.decode(errors='replace').strip()[-300:]}")


def compare(runs, rounds):
    """Call each of `runs` ({name: function that returns a Result}) once a round, in turn.

    They alternate, because the speed of a machine drifts.
    """
    results = {name: [] for name in runs}
    for number in range(rounds):
        for name in list(results):
            progress(f"round {number + 1} of {rounds}: {name}")
            try:
                results[name].append(runs[name]())
            except (RuntimeError, OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
                print(f"{name} left out: {error}", file=sys.stderr)
                del results[name]
    progress("")
    return results


def progress(text):
    if sys.stderr.isatty():
        print(f"\r{text:60}\r", end="", file=sys.stderr, flush=True)


def compare_servers(commands, rounds, job, numbers, lighter=None):
    """`compare` with a fresh server each time. `lighter`: {name: numbers} for those that fork."""

    def one_run(name):
        with running(commands[name]) as (port, pid):
            before_s = cpu_s(pid)
            figures = load(job, port, *(lighter or {}).get(name, numbers))
            return result(figures["count"], figures["seconds"], figures["errors"], cpu_s(pid) - before_s)

    return compare({name: functools.partial(one_run, name) for name in commands}, rounds)


def print_rates(title, unit, results, baseline):
    """A Markdown table: medians (and extremes) of the rates and of each round's ratio to `baseline`.

    Two more columns where the CPU time of what is measured is known. Without a baseline, the first is one.
    """
    baseline = baseline if baseline in results else next(iter(results), "")
    with_cpu = any(run.busy for runs in results.values() for run in runs)
    columns = ["", unit, f"ratio to {baseline}"] + ["CPU busy", "ratio per CPU second"] * with_cpu
    print(f"\n{title}\n\n| {' | '.join(columns)} |\n|---{'|---:' * (len(columns) - 1)}|")
    for name, runs in results.items():
        pairs = list(zip(runs, results[baseline], strict=True))
        errors = sum(run.errors for run in runs)
        cells = [
            f"{name} ({errors} errors)" if errors else name,
            spread([run.rate for run in runs], ",.0f"),
            spread([run.rate / base.rate for run, base in pairs], ".2f"),
        ]
        if with_cpu:
            known = [(run, base) for run, base in pairs if run.busy and base.busy]
            cells.append(f"{statistics.median(run.busy for run, _ in known):.0%}" if known else "")
            cells.append(spread([run.rate / run.busy * base.busy / base.rate for run, base in known], ".2f"))
        print(f"| {' | '.join(cells)} |", flush=True)


def spread(figures, form):
    """The median, and from where to where."""
    if not figures:
        return ""
    middle = f"{statistics.median(figures):{form}}"
    return middle if len(figures) == 1 else f"{middle} ({min(figures):{form}}-{max(figures):{form}})"
