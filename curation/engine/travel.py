"""How our packages come to Ray's workers, whatever lies in the folder that these run in.

Ray puts the driver's folder, or a job's `working_dir`, first on its workers' path, and finds the
classes of actors by their modules' names: where that folder has a package `curation` or `stages`
of its own, it would be taken for ours. What is sent to workers is therefore sent by value, and
before it touches anything of ours it claims our names for the folder that our packages lie in. On a
cluster the packages travel along, so that nodes need no more than what they depend on.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import pickle
import zipfile
from collections.abc import Callable
from typing import Any

from twinreel._names import NAMES, ROOT

_UNCHANGING_TIME = (1980, 1, 1, 0, 0, 0)


@dataclasses.dataclass(frozen=True)
class Home:
    """Where workers find our packages.

    Args:
        root: the folder that holds them, on this machine.
        packed: a zip of them, for other machines; None where all workers are on this one.
    """

    root: str
    packed: bytes | None = None


def home() -> Home:
    """Where workers of the Ray that this process is connected to find our packages."""
    import ray  # noqa: PLC0415
    from ray.util.client import ray as client  # noqa: PLC0415

    # A Ray on the loopback address has no other machine, unless it is reached through a gateway.
    address = ray.get_runtime_context().gcs_address
    through_a_gateway = client.is_connected()  # type: ignore[no-untyped-call]
    if address.startswith("127.") and not through_a_gateway:
        return Home(str(ROOT))
    return _packed()


@functools.cache
def _packed() -> Home:
    """For workers anywhere: equal packages give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for package in sorted((*NAMES, "twinreel")):
            for file in sorted((ROOT / package).rglob("*")):
                if file.is_file() and file.suffix != ".pyc":
                    name = file.relative_to(ROOT).as_posix()
                    archive.writestr(zipfile.ZipInfo(name, _UNCHANGING_TIME), file.read_bytes())
    return Home(str(ROOT), buffer.getvalue())


def hosted(kind: type[Any], home: Home) -> type[Any]:
    """An actor class whose actors hold an object of `kind`, which is imported once our names are.

    Args:
        kind: a class of one of our modules; its methods without an underscore can be called.
        home: where that module is found.
    """
    settle, module, name = _settler(home), kind.__module__, kind.__qualname__

    # A local class travels by value, and must name nothing of ours outside its functions.
    class Hosted:
        def __init__(self, arguments: bytes) -> None:
            import importlib  # noqa: PLC0415
            import pickle  # noqa: PLC0415

            settle()
            made = getattr(importlib.import_module(module), name)
            self._object = made(*pickle.loads(arguments))

    for method in vars(kind):
        if not method.startswith("_"):
            setattr(Hosted, method, _passed_on(method))
    Hosted.__name__ = kind.__name__
    return Hosted


def arguments_of(*arguments: object) -> bytes:
    """What an actor of a hosted class is made with: read only once our names are claimed."""
    return pickle.dumps(arguments)


def hosted_function(function: Callable[[Any], Any], home: Home) -> Callable[[Any], Any]:
    """The same for a callable of ours that Ray is to call with one argument."""
    settle = _settler(home)
    from ray import cloudpickle  # noqa: PLC0415

    pickled: bytes = cloudpickle.dumps(function)  # type: ignore[no-untyped-call]
    loaded: list[Callable[[Any], Any]] = []

    def call(argument: Any) -> Any:  # noqa: ANN401 - Ray's rows
        from ray import cloudpickle  # noqa: PLC0415

        if not loaded:
            settle()
            loaded.append(cloudpickle.loads(pickled))
        return loaded[0](argument)

    return call


def _passed_on(method: str) -> Callable[..., Any]:
    def call(self: Any, *arguments: Any) -> Any:  # noqa: ANN401
        return getattr(self._object, method)(*arguments)

    call.__name__ = method
    return call


def _settler(home: Home) -> Callable[[], None]:
    """A function that travels by value and claims our names in the process where it is called."""
    root, packed = home.root, home.packed
    digest = "" if packed is None else hashlib.sha256(packed).hexdigest()[:16]

    def unpacked() -> str:
        """The folder on this machine that the packages were unpacked to, by whoever came first.

        What cleans temporary folders may have taken files from one: then there is another.
        """
        import io  # noqa: PLC0415
        import os  # noqa: PLC0415
        import shutil  # noqa: PLC0415
        import tempfile  # noqa: PLC0415
        import zipfile  # noqa: PLC0415

        parent = os.path.join(tempfile.gettempdir(), f"twinreel-{os.getuid()}")  # noqa: PTH118
        os.makedirs(parent, mode=0o700, exist_ok=True)  # noqa: PTH103
        if os.lstat(parent).st_uid != os.getuid():
            # Somebody else's folder: what lies in it may be anything.
            parent = tempfile.mkdtemp(prefix="twinreel-")
        with zipfile.ZipFile(io.BytesIO(packed or b"")) as archive:
            number = 0
            while True:
                folder = os.path.join(parent, f"{digest}-{number}")  # noqa: PTH118
                if not os.path.isdir(folder):  # noqa: PTH112
                    partial = tempfile.mkdtemp(dir=parent)
                    archive.extractall(partial)
                    try:
                        os.rename(partial, folder)  # noqa: PTH104
                    except OSError:
                        shutil.rmtree(partial)
                        if not os.path.isdir(folder):  # noqa: PTH112
                            raise
                files = (os.path.join(folder, name) for name in archive.namelist())  # noqa: PTH118
                if all(map(os.path.isfile, files)):
                    return folder
                number += 1

    def settle() -> None:
        import importlib.util  # noqa: PLC0415
        import os  # noqa: PLC0415

        place = root if packed is None else unpacked()
        file = os.path.join(place, "twinreel", "_names.py")  # noqa: PTH118
        spec = importlib.util.spec_from_file_location("twinreel._names", file)
        assert spec is not None and spec.loader is not None
        names = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(names)
        names.claim(alone=True)

    return settle
