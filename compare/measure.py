#!/usr/bin/env python3
"""measure.py REPORT COMMAND...: runs the command and writes to the file REPORT what it cost, as one JSON object:

seconds       wall time
cpu_seconds   user and system time
peak_bytes    peak resident memory: of getrusage, or where that is hidden below this process's own, sampled
anon_bytes    peak anonymous memory: heap and stacks, without mapped files; sampled (Linux) every 0.2 ms for the first
              second, every 2 ms from then on

A process of its own, and small: a child's peak memory begins with that of the process it is forked from.
"""

import json
import os
import resource
import sys
import threading
import time
from pathlib import Path


def sample(pid: int, peaks: dict[str, int]) -> None:
    """Until the process ends. /proc/PID/status gives kB."""
    start = time.perf_counter()
    try:
        while True:
            status = Path(f"/proc/{pid}/status").read_text()
            for line in status.splitlines():
                name, _, value = line.partition(":")
                if name in peaks:
                    peaks[name] = max(peaks[name], int(value.split()[0]) * 1024)
            time.sleep(0.0002 if time.perf_counter() - start < 1 else 0.002)
    except (FileNotFoundError, ProcessLookupError):
        return


def main() -> None:
    report, command = sys.argv[1], sys.argv[2:]
    peaks = {"VmHWM": 0, "RssAnon": 0}
    unit = 1 if sys.platform == "darwin" else 1024
    start = time.perf_counter()
    pid = os.posix_spawnp(command[0], command, os.environ)
    thread = threading.Thread(target=sample, args=(pid, peaks))
    thread.start()
    _, status, usage = os.wait4(pid, 0)
    seconds = time.perf_counter() - start
    thread.join()
    floor = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # a child starts with its parent's peak
    cost = {
        "seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_bytes": peaks["VmHWM"] if usage.ru_maxrss <= floor else usage.ru_maxrss * unit,
        "anon_bytes": peaks["RssAnon"],
    }
    with open(report, "w") as file:
        json.dump(cost, file)
    code = os.waitstatus_to_exitcode(status)
    sys.exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
