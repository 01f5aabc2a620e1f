"""The result files: one a device, and one of what compilers say without a device."""

import datetime
import hashlib
import importlib.metadata
import json
import pathlib
import platform
import re
import subprocess
from typing import Any

PACKAGES = (
    "jax",
    "jaxlib",
    "libtpu",
    "jax-cuda13-plugin",
    "optax",
    "keras",
    "torch",
    "triton",
    "tokamax",
    "jax-cce",
    "liger-kernel",
    "cut-cross-entropy",
    "numpy",
)
HERE = pathlib.Path(__file__).parent


def session(command: str, commit: str | None = None) -> dict[str, Any]:
    """Where numbers come from."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "command": command,
        "commit": commit or _commit(),
        "date": datetime.date.today().isoformat(),
        "versions": versions,
    }


def _commit(root: pathlib.Path = HERE.parent) -> str:
    """That of the checkout; of a copy without one, a hash of its sources, by which the commit can be found."""

    def git(*args: str) -> str:
        return subprocess.run(["git", *args], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if pathlib.Path(git("rev-parse", "--show-toplevel")) == root.resolve():  # not a checkout around the copy
            changed = git("status", "--porcelain", "--", "jaxloss", "benchmarks", ":!benchmarks/results")
            return git("rev-parse", "--short", "HEAD") + (" with changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        pass
    sources = hashlib.sha256()
    for file in sorted(file for folder in ("jaxloss", "benchmarks") for file in (root / folder).rglob("*.py")):
        sources.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return f"unknown, sources {sources.hexdigest()[:12]}"


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def shape_and_dtype(record: dict[str, Any]) -> str:
    return f"{'×'.join(map(str, record['shape']))} {'bf16' if record['dtype'] == 'bfloat16' else 'f32'}"


def load(file: pathlib.Path) -> dict[str, Any]:
    return json.loads(file.read_text()) if file.exists() else {"sessions": [], "records": []}


def key(record: dict[str, Any]) -> tuple:
    return *(record.get(name) for name in ("target", "kind", "loss", "variant")), *record["shape"], record["dtype"]


def merge(old: dict[str, Any], session: dict[str, Any], records: list[dict[str, Any]]) -> dict[str, Any]:
    """New records take the place of old ones of the same key; a session that no record names any more goes."""
    replaced = {key(r) for r in records}
    kept = [r for r in old["records"] if key(r) not in replaced]
    everything = kept + [r | {"session": len(old["sessions"])} for r in records]
    sessions = [*old["sessions"], session]
    named = sorted({r["session"] for r in everything})
    return old | {
        "sessions": [sessions[i] for i in named],
        "records": [r | {"session": named.index(r["session"])} for r in everything],
    }


def take(file: pathlib.Path, folder: pathlib.Path) -> None:
    """The records of a file from elsewhere, among those of the same device."""
    new = json.loads(file.read_text())
    target = folder / f"{slug(new['device']['name'])}.json"
    result = load(target) | {"device": new["device"]}
    for number, session in enumerate(new["sessions"]):
        result = merge(result, session, [r for r in new["records"] if r["session"] == number])
    save(target, result)


def save(file: pathlib.Path, content: dict[str, Any]) -> None:
    """One record a line, so that a new run is a small change; all or nothing, if it is interrupted."""
    file.parent.mkdir(parents=True, exist_ok=True)
    content = _rounded(content)
    lines = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in content.items() if k != "records"]
    records = ",\n".join("  " + json.dumps(r) for r in content["records"])
    whole = file.with_suffix(".new")
    whole.write_text("{\n" + ",\n".join(lines) + ',\n"records": [\n' + records + "\n]}\n")
    whole.replace(file)


def _rounded(content: Any) -> Any:
    if isinstance(content, dict):
        return {k: _rounded(v) for k, v in content.items()}
    if isinstance(content, list):
        return [_rounded(v) for v in content]
    return float(f"{content:.4g}") if isinstance(content, float) else content
