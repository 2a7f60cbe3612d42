"""Programs that are started, waited for and stopped here."""

import ctypes
import os
import re
import select
import signal
import subprocess
import time

START_SECONDS = 30
PR_SET_PDEATHSIG = 1


class Failure(Exception):
    """Something that ends the program, with its message."""


def bound_to(cores):
    """A function for a child's start: it runs on `cores`, and ends when this program does, however that ends."""
    libc = ctypes.CDLL(None)

    def bind():
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if cores:
            os.sched_setaffinity(0, cores)

    return bind


def run(command, what, **options):
    """Runs to the end; its standard output, or a Failure with the last line of its errors."""
    result = subprocess.run(command, capture_output=True, text=True, preexec_fn=bound_to(None), **options)
    if result.returncode != 0:
        lines = [line for line in result.stderr.strip().splitlines() if line.strip()]
        raise Failure(f"{what}: {lines[-1].removeprefix(what + ': ') if lines else f'code {result.returncode}'}")
    return result.stdout


class Server:
    """A peer's program: it prints "listening on ADDRESS", and before that "process PID" if another process is to be measured."""

    def __init__(self, command, core, log):
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, bufsize=0, start_new_session=True,
            preexec_fn=bound_to({core}),
        )
        self.pid, self.url, text = self.process.pid, None, b""
        deadline = time.monotonic() + START_SECONDS
        while not self.url:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0, deadline - time.monotonic()))
            part = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            if not part:
                self.stop()
                raise Failure(f"{command[0]} did not start; see {log.name}")
            text += part
            if match := re.search(rb"^listening on (\S+)\n", text, re.M):
                self.url = f"http://{match[1].decode()}"
            if match := re.search(rb"^process (\d+)\n", text, re.M):
                self.pid = int(match[1])

    def stop(self):
        for signal_number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, signal_number)
                self.process.wait(timeout=3)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue
        self.process.stdout.close()
