from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from manifests.errors import StorageError
from manifests.store.lease import Lease
from manifests.store.storage import open_storage

LEASE = "manifests/_lease.json"


def test_one_job_at_a_time_and_the_second_is_told_who_has_it(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    with Lease(storage) as lease:
        lease.check()
        with pytest.raises(StorageError) as error, Lease(storage):
            pass
        assert error.value.code == "out_busy"
        assert str(os.getpid()) in error.value.message
        assert socket.gethostname() in error.value.message
        assert error.value.remedy
        lease.check()
    assert not storage.exists(LEASE)
    with Lease(storage):
        pass


def test_a_lease_of_a_dead_process_is_taken_over_at_once(tmp_path: Path) -> None:
    script = (
        "import os, sys; from manifests.store.lease import Lease;"
        "from manifests.store.storage import open_storage;"
        "Lease(open_storage(sys.argv[1])).__enter__(); os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    storage = open_storage(str(tmp_path))
    assert storage.exists(LEASE)
    with Lease(storage) as lease:
        lease.check()


def test_a_lost_lease_is_noticed_before_a_commit(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    with Lease(storage) as lease:
        other = json.loads(storage.read(LEASE)) | {"token": "somebody else's"}
        storage.write(LEASE, json.dumps(other).encode())
        with pytest.raises(StorageError) as error:
            lease.check()
        assert error.value.code == "lease_lost"
    # It is not ours to remove.
    assert storage.exists(LEASE)
