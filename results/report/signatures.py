"""All known signatures, asked of a run."""

from results.report import round_signatures as rounds
from results.report import site_signatures as sites
from results.report.finding import Finding
from results.report.patients import Patients
from results.run_reader import RunFiles


def find(run: RunFiles, patients: Patients | None = None) -> list[Finding]:
    """Return the findings that a run shows, what concerns the outcome first."""
    found = (
        sites.no_site_gained(run),
        sites.sites_that_lost(run),
        sites.merge_worse_than_alone(run, patients),
        sites.overfitting_adapters(patients),
        rounds.swinging_validation(run),
        rounds.idle_last_rounds(run),
        rounds.penalty_always_or_never(run),
        rounds.left_out_sites(run),
        rounds.foreign_traffic(run),
    )
    return [finding for finding in found if finding is not None]


def unchecked(run: RunFiles, patients: Patients | None = None) -> list[str]:
    """Return what could not be looked for, as the numbers for it are missing."""
    transfer = patients.transfer if patients else None
    own = transfer is not None or any(run.series(site, "local") for site in run.sites)
    known = {
        "sites that gained or lost (no test scores)": bool(run.gains()),
        "a merge worse than sites' own adapters (their scores are not recorded)": own,
        "adapters that overfit (no adapters of single sites from several rounds, or no images)": (
            transfer is not None and len(transfer.rounds) >= sites.DRIFT_ROUNDS
        ),
        f"swings, idle rounds and odd penalties (fewer than {rounds.MIN_ROUNDS} rounds)": (
            len(run.rounds) >= rounds.MIN_ROUNDS
        ),
    }
    return [what for what, can in known.items() if not can]
