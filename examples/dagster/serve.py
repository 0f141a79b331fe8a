"""Dagster's web server and daemon on the tutorial, until Ctrl-C.

    python serve.py [--port N] [--home FOLDER] [FILE ...]

It prints the address once it answers. The home keeps what was run; without one, nothing
is kept. Each file is a code location; by default there is ``dagster_code.py`` alone.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

HOST = "127.0.0.1"
CONFIGURATION = """\
# Twelve months are not loaded into memory at once, and a single run does not wait.
run_coordinator:
  module: dagster.core.run_coordinator
  class: QueuedRunCoordinator
  config: {max_concurrent_runs: 4, dequeue_interval_seconds: 1}
# The server has ended when its code servers have.
code_servers: {wait_for_local_processes_on_shutdown: true}
telemetry: {enabled: false}
nux: {enabled: false}
"""
#: Seconds from Ctrl-C to SIGKILL: scripts get up to 20 of them to end.
GRACE = 60


#: Outside of what Linux, by default, gives to whoever asks for any: the server binds its own
#: seconds later.
PORTS = range(20_000, 32_000)


def free_port(port: int) -> int:
    """``port``, or any that is free for 0."""
    candidates = [port] if port else random.sample(PORTS, 100)
    for candidate in candidates:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, candidate))
                return candidate
            except OSError as error:
                why = error.strerror
    sys.exit(f"port {candidates[-1]} cannot be used: {why}; choose another with --port")


def start(files: Sequence[Path], home: Path, port: int) -> subprocess.Popen[bytes]:
    home.mkdir(parents=True, exist_ok=True)
    (home / "dagster.yaml").write_text(CONFIGURATION)
    # That `dagster dev` has a successor is no warning for who looks at a demo.
    command = [sys.executable, "-W", "ignore", "-m", "dagster", "dev", "--log-level", "warning"]
    command += ["--host", HOST, "--port", str(port)]
    for file in files:
        command += ["--python-file", str(file)]
    environment = {**os.environ, "DAGSTER_HOME": str(home)}
    # In a group of its own, so that all of it can be told, or killed, at once.
    return subprocess.Popen(command, env=environment, start_new_session=True)


def wait_until_it_answers(server: subprocess.Popen[bytes], address: str) -> bool:
    while server.poll() is None:
        with suppress(URLError, TimeoutError), urlopen(f"{address}/server_info", timeout=5):
            return True
        time.sleep(0.1)
    return False


def stop(server: subprocess.Popen[bytes]) -> None:
    """As Ctrl-C in a terminal does: runs that are under way end, and their scripts with them."""
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGINT)
        try:
            with suppress(subprocess.TimeoutExpired):
                server.wait(GRACE)
        finally:
            os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def serve(files: Sequence[Path], home: Path, port: int) -> int:
    address = f"http://{HOST}:{port}"
    server = start(files, home, port)
    try:
        print("starting Dagster ...", flush=True)
        if wait_until_it_answers(server, address):
            print(f"Dagster is at {address} (Ctrl-C ends it)", flush=True)
        return server.wait()
    except KeyboardInterrupt:
        print("\nending Dagster ...", flush=True)
        return 0
    finally:
        stop(server)


def main() -> int:
    parser = argparse.ArgumentParser(description="Serve the tutorial in Dagster.")
    tutorial = Path(__file__).with_name("dagster_code.py")
    parser.add_argument("files", nargs="*", type=Path, default=[tutorial], metavar="FILE")
    parser.add_argument("--port", type=int, default=3000, help="0 takes one that is free")
    parser.add_argument("--home", type=Path, help="DAGSTER_HOME; by default a temporary folder")
    arguments = parser.parse_args()
    # What a shell starts with `&` ignores SIGINT, and so would all of Dagster.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    port = free_port(arguments.port)
    with tempfile.TemporaryDirectory(prefix="dagster-demo-") as temporary:
        home = arguments.home or Path(temporary)
        return serve(arguments.files, home.resolve(), port)


if __name__ == "__main__":
    sys.exit(main())
