"""What the figures were measured on, without a name of the machine."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import redis

import cleanup_job


def describe() -> dict[str, Any]:
    """Machine and software."""
    return {
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "cpu": _cpu_model(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "redis_py": version("redis"),
        "cleanup_job": cleanup_job.__version__,
        "load_average": os.getloadavg()[0],
    }


def headline(about: Mapping[str, Any]) -> str:
    """What `describe` told, in a line."""
    return (
        f"{about['cores']} cores of {about['cpu']}, {about['system']}; "
        f"Python {about['python']}, redis-py {about['redis_py']}"
    )


def product(client: redis.Redis) -> str:
    """What the server calls itself."""
    info: Any = client.info("server")
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info['redis_version']}"


def _cpu_model() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or "unknown"
