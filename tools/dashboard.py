"""Make configs/grafana/cleanup-job.json: a dashboard is too long to be written by hand.

python -m tools.dashboard
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent.parent / "configs" / "grafana" / "cleanup-job.json"

SOURCE = {"type": "prometheus", "uid": "${source}"}

TARGET = 'target=~"$target"'

STATUS_COLOURS = {
    "complete": "green",
    "partial": "yellow",
    "refused": "red",
    "failed": "red",
    "error": "red",
    "try_again": "blue",
    "stopped": "purple",
}


def _queries(*pairs: tuple[str, str]) -> list[dict[str, Any]]:
    return [
        {"refId": chr(ord("A") + i), "datasource": SOURCE, "expr": expr, "legendFormat": legend}
        for i, (expr, legend) in enumerate(pairs)
    ]


def _panel(
    kind: str, title: str, text: str, unit: str, place: tuple[int, int, int, int], *queries: Any
) -> dict[str, Any]:
    x, y, width, height = place
    return {
        "type": kind,
        "title": title,
        "description": text,
        "datasource": SOURCE,
        "gridPos": {"x": x, "y": y, "w": width, "h": height},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": {},
        "targets": _queries(*queries),
    }


def _panels() -> list[dict[str, Any]]:
    age = f"time() - cleanup_job_last_success_timestamp_seconds{{{TARGET}}}"
    since = _panel(
        "stat", "Since the last complete run", "An alert comes after 15 minutes.", "s",
        (0, 0, 6, 5), (age, "{{target}}"),
    )  # fmt: skip
    since["fieldConfig"]["defaults"]["thresholds"] = {
        "mode": "absolute",
        "steps": [
            {"color": "green", "value": None},
            {"color": "yellow", "value": 420},
            {"color": "red", "value": 900},
        ],
    }
    status = _panel(
        "state-timeline", "What runs came to",
        "complete; partial (the next run goes on); refused (a safety limit); failed (a bug); error "
        "(configuration, rights); try_again (unreachable, another run); stopped (a signal)",
        "none", (6, 0, 18, 5),
        (f"cleanup_job_last_run_status{{{TARGET}}} == 1", "{{target}} {{status}}"),
    )  # fmt: skip
    status["fieldConfig"]["overrides"] = [
        {
            "matcher": {"id": "byRegexp", "options": f".* {name}"},
            "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}],
        }
        for name, colour in STATUS_COLOURS.items()
    ]
    return [
        since,
        status,
        _panel(
            "timeseries", "Coordinators found", "By state, in each run.", "short", (0, 5, 12, 8),
            (f"cleanup_job_coordinators{{{TARGET}}}", "{{target}} {{state}}"),
        ),
        _panel(
            "timeseries", "Keys deleted by family", "In each run.", "short", (12, 5, 12, 8),
            (f'cleanup_job_keys{{{TARGET}, outcome="deleted"}}', "{{target}} {{family}}"),
        ),
        _panel(
            "timeseries", "Keys not deleted", "gone and spared are as they should be; failed and "
            "unknown are not.", "short", (0, 13, 12, 8),
            (f'sum by (target, outcome) (cleanup_job_keys{{{TARGET}, outcome!="deleted"}})',
             "{{target}} {{outcome}}"),
        ),
        _panel(
            "timeseries", "Duration by phase", "And the whole run.", "s", (12, 13, 12, 8),
            (f"cleanup_job_phase_duration_seconds{{{TARGET}}}", "{{target}} {{phase}}"),
            (f"cleanup_job_last_run_duration_seconds{{{TARGET}}}", "{{target}} whole run"),
        ),
        _panel(
            "timeseries", "Orphans", "Coordinators without any heartbeat.", "short",
            (0, 21, 8, 7),
            (f'cleanup_job_coordinators{{{TARGET}, state="orphaned"}}', "{{target}}"),
        ),
        _panel(
            "timeseries", "Not to be understood", "Their coordinators are kept.", "short",
            (8, 21, 8, 7),
            (f'cleanup_job_coordinators{{{TARGET}, state=~"unreadable|future"}}',
             "{{target}} {{state}}"),
        ),
        _panel(
            "timeseries", "Paused", "By the throttle, in each run.", "s", (16, 21, 8, 7),
            (f"cleanup_job_paused_seconds{{{TARGET}}}", "{{target}} {{reason}}"),
        ),
        _panel(
            "timeseries", "CPU", "Of the servers meanwhile, for others too; and our own.", "s",
            (0, 28, 8, 7),
            (f"cleanup_job_server_cpu_seconds{{{TARGET}}}", "{{target}} server"),
            (f"cleanup_job_client_cpu_seconds{{{TARGET}}}", "{{target}} job"),
        ),
        _panel(
            "timeseries", "Memory of the server", "Before and after each run.", "bytes",
            (8, 28, 8, 7),
            (f"cleanup_job_server_memory_bytes{{{TARGET}}}", "{{target}} {{when}}"),
        ),
        _panel(
            "timeseries", "Commands, p99", "How long others may have waited.", "s",
            (16, 28, 8, 7),
            (f"cleanup_job_command_p99_seconds{{{TARGET}}}", "{{target}} {{command}}"),
        ),
    ]  # fmt: skip


def dashboard() -> dict[str, Any]:
    """The dashboard, in the format of Grafana 10 and newer."""
    variable = {
        "name": "target",
        "label": "Target",
        "type": "query",
        "datasource": SOURCE,
        "query": {
            "query": "label_values(cleanup_job_last_run_timestamp_seconds, target)",
            "refId": "target",
        },
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "current": {"text": "All", "value": "$__all"},
    }
    source = {"name": "source", "label": "Data source", "type": "datasource", "query": "prometheus"}
    return {
        "title": "cleanup-job",
        "uid": "cleanup-job",
        "description": "What cleanup-job run --prom FILE writes for node_exporter. Its queries "
        "were checked with promtool; it was not looked at in a Grafana.",
        "tags": ["cleanup-job", "redis"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "1m",
        "time": {"from": "now-24h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [source, variable]},
        "annotations": {"list": []},
        "panels": [{"id": i, **panel} for i, panel in enumerate(_panels(), 1)],
    }


def text() -> str:
    """The file."""
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
