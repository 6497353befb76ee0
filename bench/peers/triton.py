"""Lays out what Triton's server needs: a model repository, and its Python backend.

The ``nvidia-pytriton`` wheel carries the whole server with the Python backend. Its interpreter
stub takes the first ``python3`` on PATH and heeds no PYTHONPATH, so paths are put into the
backend's own module.
"""

from __future__ import annotations

import shutil
import sys
import sysconfig
from pathlib import Path

from bench.peers import install
from bench.servers import ROOT, BenchmarkFailed

_MODEL = Path(__file__).with_name("triton_model.py")
_OUTPUTS = {
    "classifier": (("label", "INT64", 1), ("probabilities", "FP64", 10)),
    "sum": (("y", "FP64", 1),),
    "mlp": (("y", "FP32", 10),),
}


def lay_out(folder: Path, workload: str, columns: int, *, delay_us: int, backends: int = 1) -> Path:
    """Writes backend and repository into a folder and returns the server's program."""
    packages = next((install.folder() / "triton" / "lib").glob("python3.*/site-packages"))
    server = packages / "pytriton" / "tritonserver"
    stub = server / "python_backend_stubs" / f"{sys.version_info.major}.{sys.version_info.minor}"
    if not stub.is_dir():
        raise BenchmarkFailed(f"Triton's wheel has no Python backend for {stub.name}")
    backend = folder / "backends" / "python"
    shutil.copytree(server / "backends" / "python", backend)
    shutil.copy(stub / "triton_python_backend_stub", backend)
    module = backend / "triton_python_backend_utils.py"
    paths = f"import sys\nsys.path[:0] = {[str(packages), str(ROOT)]!r}\n"
    module.write_text(paths + module.read_text(encoding="utf-8"), encoding="utf-8")
    version = folder / "repository" / "model" / "1"
    version.mkdir(parents=True)
    shutil.copy(_MODEL, version / "model.py")
    config = _config(workload, columns, delay_us, backends)
    (version.parent / "config.pbtxt").write_text(config, encoding="utf-8")
    return server / "bin" / "tritonserver"


def library_path() -> str:
    """Returns where the server finds its libraries, Python's own among them."""
    packages = next((install.folder() / "triton" / "lib").glob("python3.*/site-packages"))
    return f"{sysconfig.get_config_var('LIBDIR')}:{packages / 'nvidia_pytriton.libs'}"


def _config(workload: str, columns: int, delay_us: int, backends: int) -> str:
    kind = "FP32" if workload == "mlp" else "FP64"
    outputs = ", ".join(
        f'{{ name: "{name}" data_type: TYPE_{datatype} dims: [{width}] }}'
        for name, datatype, width in _OUTPUTS.get(workload, _OUTPUTS["classifier"])
    )
    return f"""name: "model"
backend: "python"
max_batch_size: 64
input [{{ name: "x" data_type: TYPE_{kind} dims: [{columns}] }}]
output [{outputs}]
dynamic_batching {{ max_queue_delay_microseconds: {delay_us} }}
instance_group [{{ count: {backends} kind: KIND_CPU }}]
"""
