"""Incidents: what went wrong in a run and what it did, in a file for each and on the screen."""

from __future__ import annotations

from ttstrain.train.guard import Incident
from ttstrain.train.run import Run


def tell(run: Run, incident: Incident) -> None:
    """Write an incident into the run's folder and show it; a failure to write is shown and does not end the run."""
    if not run.ranks.main:
        return
    try:
        where = incident.write(run.folder / "incidents").name
    except OSError as error:
        where = f"not written: {error.strerror or error}"
    run.trackers.incident(incident.step, incident.action, f"{sentence(incident)} ({where})")


def sentence(incident: Incident) -> str:
    """Say in one line what happened, and what follows from it."""
    what = incident.kind.replace("_", " ")
    figures = [f"loss {incident.loss:.4g}"] if incident.loss is not None else []
    figures += [f"gradient norm {incident.grad_norm:.4g}"] if incident.grad_norm is not None else []
    more = f" and {len(incident.clips) - 3} more" if len(incident.clips) > 3 else ""
    figures += [f"clips {', '.join(incident.clips[:3])}{more}"] if incident.clips else []
    after = [] if incident.restored_step is None else [f"back to step {incident.restored_step}"]
    found = [] if incident.finding is None else [str(incident.finding)]
    return "; ".join([f"{what}: {', '.join(figures)}" if figures else what, *found, *incident.notes, *after])
