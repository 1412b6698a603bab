"""What only the whole folder tells: images twice, sites, and who is in which split."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from cardiac.datasets import Listing
from cardiac.datasets.sites import site_column, site_faults, site_of
from cardiac.faults import Fault, some
from cardiac.inspection.case import CaseReport
from cardiac.inspection.orientation import check_most
from cardiac.splits import MIN_PATIENTS, split_patients

Sites = dict[str, list[CaseReport]]


def divide(
    listing: Listing, reports: Sequence[CaseReport], split_by: str | None, data_dir: Path
) -> tuple[Sites, list[Fault]]:
    """Divide reports into sites as training would, as far as the index allows it.

    Parameters
    ----------
    listing
        Of the folder.
    reports
        Of its cases.
    split_by
        Column whose values are the sites; None for the layout's own, and for no division in
        ACDC's.
    data_dir
        The folder.
    """
    column = site_column(listing.cases, split_by)
    faults = list(site_faults(listing.cases, column, data_dir))
    untold = listing.layout == "ACDC" and split_by is None
    if untold or any(fault.code in ("csv-missing", "csv-column") for fault in listing.faults):
        faults = [fault for fault in faults if fault.code != "column-missing"]
    sites: Sites = {}
    for report in reports:
        sites.setdefault(site_of(report.case, column), []).append(report)
    return dict(sorted(sites.items())), faults


def check_site(name: str, reports: Sequence[CaseReport]) -> Iterator[Fault]:
    """Yield what is wrong with a site as a whole: too small to be split, or turned."""
    patients = {report.case.patient for report in reports}
    if len(patients) < MIN_PATIENTS:
        yield Fault(
            "site-small",
            f"site {name} has {len(patients)} patient(s), expected at least {MIN_PATIENTS}: "
            "one each to train, validate and test on",
        )
        return
    angles = [report.rv_deg for report in reports if report.rv_deg is not None]
    for code, text in check_most(angles) if angles else ():
        yield Fault(code, f"site {name}: {text}")


def check_duplicates(sites: Sites, split_seed: int) -> Iterator[Fault]:
    """Yield images and labels that two patients share, and splits that share an image."""
    reports = [report for site in sites.values() for report in site]
    splits = split_by_patient(sites, split_seed)
    for group in _shared(reports, lambda r: r.image_hashes and r.image_hashes[1]):
        same = len({r.image_hashes for r in group}) == 1
        how = "the same image" if same else "the same image, turned or mirrored"
        patients = sorted({r.case.patient for r in group})
        names = some(r.case.name for r in group)
        yield Fault("duplicate-image", f"{names} hold {how}", patients[0])
        places = {patient: splits[patient] for patient in patients if patient in splits}
        if len({split for _, split in places.values()}) > 1:
            where = some(f"{p} in {split} of site {site}" for p, (site, split) in places.items())
            yield Fault("split-leak", f"{where}: one image in two splits", patients[0])
    for group in _shared(reports, lambda r: r.label_hash):
        names = some(r.case.name for r in group)
        yield Fault("duplicate-label", f"{names} hold the same label", group[0].case.patient)


def split_by_patient(sites: Sites, split_seed: int) -> Mapping[str, tuple[str, str]]:
    """Return site and split of every patient, where the site is large enough to be split."""
    places = {}
    for name, reports in sites.items():
        patients = {report.case.patient for report in reports}
        if len(patients) >= MIN_PATIENTS:
            for split, members in split_patients(patients, split_seed).items():
                places.update({patient: (name, str(split)) for patient in members})
    return places


def _shared(
    reports: Sequence[CaseReport], key: Callable[[CaseReport], str | None]
) -> Iterator[list[CaseReport]]:
    """Yield groups of reports of several patients that have the same key."""
    groups: dict[str, list[CaseReport]] = {}
    for report in reports:
        if value := key(report):
            groups.setdefault(value, []).append(report)
    for group in groups.values():
        if len({report.case.patient for report in group}) > 1:
            yield group
