"""The plan file's part in a run: read, compared with what is there, used, or written.

`plan_file` is imported only by runs that have such a file.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cleanup_job.config import Config
from cleanup_job.errors import ConfigError
from cleanup_job.judge import Verdicts
from cleanup_job.model import Problem, Target
from cleanup_job.plan import Plan, Scope, everything, listed, scope_of
from cleanup_job.report import PlanUse
from cleanup_job.sweep import Surveyed, Sweep

if TYPE_CHECKING:
    from cleanup_job.plan_file import PlanFile


def read_plan(config: Config, path: str | None) -> PlanFile | None:
    """The plan to execute, if there is one; all is checked that takes no server.

    Raises:
        ConfigError: it can't be read, or is damaged.
        RefusedError: it was made with other settings.
    """
    if path is None:
        return None
    from cleanup_job import plan_file

    by_plan = plan_file.read(Path(path))
    plan_file.require_settings(by_plan, config, config.endpoint().db)
    return by_plan


def require_fit(by_plan: PlanFile | None, target: Target, now_ms: int, config: Config) -> None:
    """That the plan is for these servers, and not too old.

    Raises:
        RefusedError: if it is not.
    """
    if by_plan is None:
        return
    from cleanup_job import plan_file

    plan_file.require_target(by_plan, target)
    plan_file.require_young(by_plan, now_ms, config)


def scope_of_run(
    sweep: Sweep, surveyed: Surveyed, verdicts: Verdicts, by_plan: PlanFile | None
) -> Scope:
    """What may go: anything dead, or only what is in the plan and still dead.

    Raises:
        RefusedError: if servers are not those of the plan any more.
    """
    if by_plan is None or surveyed.stopped:
        return everything(verdicts)
    from cleanup_job import plan_file

    plan_file.require_target(by_plan, surveyed.target)
    return scope_of(verdicts, sweep.schema, by_plan.coordinators())


def plan_use_of(by_plan: PlanFile, scope: Scope, plan: Plan) -> PlanUse:
    """What a run made of the plan that it was given."""
    header = by_plan.header
    return PlanUse(
        file=str(by_plan.path),
        created_at=header.created_at,
        coordinators=header.coordinators,
        keys=by_plan.keys,
        due=plan.coordinators,
        gone_or_alive=scope.gone_or_alive,
        changed=len(scope.changed),
    )


def write_plan(
    sweep: Sweep, surveyed: Surveyed, verdicts: Verdicts, plan: Plan, began_ms: int
) -> PlanUse | Problem | None:
    """Write the plan of a dry run, if it is asked for; what came of it."""
    path = sweep.plan_path
    if path is None:
        return None
    from cleanup_job import plan_file

    if surveyed.stopped:
        message = f"--plan: {path} is not written, since the run was stopped"
        return Problem(plan_file.UNFINISHED, message, 1)
    header = plan_file.header_for(
        sweep.config,
        plan_file.PlannedTarget.of(surveyed.target, sweep.access.endpoint.db),
        sweep.run_id,
        began_ms,
        plan.coordinators,
        plan.counts,
    )
    try:
        plan_file.write(path, header, listed(verdicts, sweep.schema, plan.orphans))
    except ConfigError as error:
        # The run was good for its report, which must not be lost with the file.
        return Problem(plan_file.NOT_WRITTEN, str(error), 1)
    count = header.coordinators
    return PlanUse(str(path), header.created_at, count, plan.size, due=count)
