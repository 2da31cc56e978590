"""`ttstrain env`: versions, devices and threads."""

from __future__ import annotations

from typing import Annotated, Any

import typer


def env(json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False) -> None:
    """Print versions, devices and threads: what a bug report needs."""
    from json import dumps

    from ttstrain.environment import describe_environment

    found = describe_environment()
    print(dumps(found, indent=1, ensure_ascii=False) if json else "\n".join(_lines(found)))


def _lines(found: dict[str, Any]) -> list[str]:
    packages, devices = found["packages"], found["devices"]
    missing = [name for name, version in packages.items() if version is None]
    lines = [
        f"ttstrain  {found['ttstrain']}" + (f", commit {found['commit']}" if found["commit"] else ""),
        f"python    {found['python']} on {found['platform']}",
        *(
            f"{'packages' if i == 0 else '':9} {name} {version}"
            for i, (name, version) in enumerate(_installed(packages))
        ),
        *([f"          not installed: {', '.join(missing)}"] if missing else []),
        f"cpu       {found['cpu_cores']} cores, {found['cpu_threads']} threads",
    ]
    for index, device in enumerate(devices):
        bf16 = "bf16" if device["bf16"] else "no bf16"
        memory = device["memory_bytes"] / 2**30
        lines.append(f"cuda:{index}    {device['name']}, {memory:.0f} GiB, sm {device['capability']}, {bf16}")
    return lines if devices else [*lines, "gpu       none usable by CUDA"]


def _installed(packages: dict[str, str | None]) -> list[tuple[str, str]]:
    return [(name, version) for name, version in packages.items() if version is not None]
