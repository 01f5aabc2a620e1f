"""The device at hand, and TPUs and GPUs to compile for without one."""

import os
import pathlib
from typing import Any, NamedTuple

import jax


class Device(NamedTuple):
    name: str
    platform: str  # cpu, gpu, tpu


def at_hand() -> Device:
    device = jax.devices()[0]
    if device.platform != "cpu":
        return Device(device.device_kind, device.platform)
    import cpuinfo

    facts = cpuinfo.get_cpu_info()
    wide = next(
        (name for flag, name in (("avx512f", "AVX-512"), ("avx2", "AVX2")) if flag in facts.get("flags", ())), ""
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    brand = facts.get("brand_raw") or facts.get("arch", "CPU")
    return Device(", ".join(filter(None, (brand, f"{cores} cores", wide))), "cpu")


# Compilers need a description of the device, not the device. Each has four of it, for meshes.

ABSENT = {"v5e": "TPU v5e", "v6e": "TPU v6e", "h100": "NVIDIA H100", "h200": "NVIDIA H200"}
MEMORY = {"h100": 80e9, "h200": 141e9}  # bytes; compilers for GPUs refuse nothing
_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_LOG_DIR": "disabled",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # for tests in several processes
}


def needs(target: str) -> str:
    """The module without which nothing compiles for the target."""
    return "libtpu" if target.startswith("v") else "jax_plugins.xla_cuda13"


def devices_of(target: str, topology: str | None = None) -> list[Any]:
    """Devices of a kind in ABSENT, four or as many as a topology has, that can be compiled for but not run on."""
    os.environ |= {name: value for name, value in _TPU.items() if name not in os.environ}
    from jax.experimental import topologies

    if needs(target) == "libtpu":
        description = topologies.get_topology_desc(platform="tpu", topology_name=f"{target}:{topology or '2x2'}")
    else:
        config = (pathlib.Path(__file__).parent / "devices" / f"{target}.txtpb").read_text()
        facts = {"target_config": config, "topology": topology or "1x1x4"}
        description = topologies.get_topology_desc(platform="cuda", **facts)
    return list(description.devices)
