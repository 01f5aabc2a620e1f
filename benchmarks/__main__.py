"""Measures every loss beside its peers and writes BENCHMARKS.md."""

import argparse
import math
import os
import pathlib
import shlex
import sys
import time

# glibc gives large arrays back to the system and faults their pages in again at each call: half of the time on a CPU,
# and chance. Accelerators keep their memory, so do the allocators that trainers on CPUs preload, and so does this run.
KEEP = {"MALLOC_MMAP_MAX_": "0", "MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": str(2**40)}
ROOT = pathlib.Path(__file__).parent.parent
PLATFORMS = {"cpu": "cpu", "gpu": "cuda,cpu", "tpu": "tpu,cpu"}  # the CPU computes what is right


def main() -> None:
    start = time.monotonic()
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="NAME", help="losses whose names contain one of these"
    )
    parser.add_argument("--device", choices=PLATFORMS, help="where to measure; by default, where JAX would run")
    parser.add_argument("--quick", action="store_true", help="small arrays, to see that all works: no number counts")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--compile-only", action="store_true", help="no device: what compilers for TPUs and GPUs say")
    instead.add_argument(
        "--report",
        nargs="*",
        type=pathlib.Path,
        metavar="FILE",
        help="measure nothing, write the pages again, with the results in these files of --out",
    )
    parser.add_argument("--output", type=pathlib.Path, help="the folder to write to, instead of this checkout")
    parser.add_argument(
        "--cases",
        choices=("all", "headline", "eager", "layouts"),
        default="all",
        help="headline: the short list, the most important first; eager: calls without jit; "
        "layouts: how an output matrix lies on sixteen devices, with --compile-only",
    )
    parser.add_argument("--seconds", type=float, default=math.inf, help="no record is started after that many")
    parser.add_argument("--out", type=pathlib.Path, metavar="FOLDER", help="only the results, one file, and no page")
    parser.add_argument("--commit", help="of a copy that is no checkout; by default, a hash of its sources")
    options = parser.parse_args()
    if options.out and (options.output or options.compile_only or options.report is not None):
        parser.error("--out: expected a run that measures, without --output")
    if options.cases == "layouts" and not options.compile_only:
        parser.error("--cases: layouts are compiled only, add --compile-only")
    if sys.platform == "linux" and not KEEP.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks", *sys.argv[1:]], os.environ | KEEP)
    if options.device or options.compile_only:
        os.environ["JAX_PLATFORMS"] = PLATFORMS[options.device or "cpu"]
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the memory of a GPU is shared with PyTorch

    import jax

    try:
        found = jax.devices()[0].platform
    except RuntimeError as error:
        found = str(error)
    if options.device and options.device != found:
        parser.error(f"--device: expected one that JAX finds here, got {options.device}; JAX finds: {found}")

    from . import records

    quick = ROOT / "benchmarks" / "quick"
    output = options.output or (quick if options.quick else ROOT)
    command = shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
    session = records.session(command, options.commit)
    results = output / "benchmarks" / "results"
    if options.compile_only:
        from .compile_only import compile_all

        compile_all(options.cases, options.only, options.quick, output, session)
    elif options.report is None:
        from .run import measure_all

        folder, deadline = options.out or results, start + options.seconds
        measure_all(options.cases, options.only, options.quick, folder, session, deadline)
        if options.out:
            return
    for file in options.report or ():
        records.take(file, results)
    from . import report  # needs matplotlib and tabulate, which a machine that only measures may not have

    print("wrote", report.write(output))


if __name__ == "__main__":
    main()
