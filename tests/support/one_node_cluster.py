"""A Ray cluster of one node on the loopback address that takes jobs; as a script, runs one of them.

`python -m tests.support.one_node_cluster FOLDER COMMAND...` submits a command with FOLDER as its
`working_dir`, prints what the job prints, and ends with 0 if it succeeded. A process of its own,
because Ray reads its token once a process.
"""

from __future__ import annotations

import socket
import subprocess
import sys

from ray.cluster_utils import Cluster


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def main(folder: str, *command: str) -> int:
    """Run the command as a job."""
    port = _free_port()
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 2,
            "node_ip_address": "127.0.0.1",
            "include_dashboard": True,
            "dashboard_host": "127.0.0.1",
            "dashboard_port": port,
            "dashboard_agent_listen_port": 0,
        },
    )
    try:
        submit = ["job", "submit", "--address", f"http://127.0.0.1:{port}"]
        submit += ["--working-dir", folder, "--", *command]
        return subprocess.run(
            [sys.executable, "-c", "from ray.scripts.scripts import main; main()", *submit],
            check=False,
        ).returncode
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
