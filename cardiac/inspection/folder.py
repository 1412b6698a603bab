"""What only the whole folder tells: images twice, sites, and who is in which split."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from cardiac.datasets import VENDOR_NAMES, site_name
from cardiac.inspection.case import CaseReport
from cardiac.inspection.findings import Finding
from cardiac.inspection.listing import Listing, some
from cardiac.inspection.orientation import check_most
from cardiac.splits import MIN_PATIENTS, split_patients

DEFAULT_COLUMN = "VENDOR"
ALL = "all"
"""The one site of a folder that does not say whose its cases are."""

Sites = dict[str, list[CaseReport]]


def group_by_site(
    listing: Listing, reports: Sequence[CaseReport], split_by: str | None
) -> tuple[Sites, list[Finding]]:
    """Divide reports into sites as training would, as far as the index allows it.

    Parameters
    ----------
    listing
        Of the folder.
    reports
        Of its cases.
    split_by
        Column whose values are the sites; None for VENDOR, or no division in ACDC's layout.
    """
    column = split_by or DEFAULT_COLUMN
    without = sorted({r.case.patient for r in reports if column not in r.case.info})
    if without and split_by is None and listing.layout == "ACDC":
        return {ALL: list(reports)}, []
    findings = []
    if without and not any(f.code in ("csv-missing", "csv-column") for f in listing.findings):
        text = f"there is no {column} to split by; give the column with --split-by"
        everyone = len(without) == len({r.case.patient for r in reports})
        findings += [
            Finding("column-missing", text, patient) for patient in ([""] if everyone else without)
        ]
    sites: Sites = {}
    for report in reports:
        value = report.case.info.get(column)
        name = ALL if value is None else site_name(column, value)
        sites.setdefault(name, []).append(report)
    findings += _check_values(column, reports)
    return dict(sorted(sites.items())), findings


def _check_values(column: str, reports: Sequence[CaseReport]) -> Iterator[Finding]:
    patients: dict[str, set[str]] = {}
    for report in reports:
        if column in report.case.info:
            patients.setdefault(report.case.info[column], set()).add(report.case.patient)
    for patient in sorted(patients.pop("", set())):
        yield Finding(
            "column-empty",
            f"{column} is empty, so the patient goes to a site {site_name(column, '')!r}",
            patient,
        )
    for value, having in sorted(patients.items()):
        if column.upper() == "VENDOR" and value.lower() not in VENDOR_NAMES:
            known = ", ".join(sorted(set(VENDOR_NAMES.values())))
            yield Finding(
                "vendor-unknown",
                f"{column} is {value!r} for {len(having)} patient(s), a spelling we do not know, "
                f"so it is a site of its own beside {known}",
            )


def check_site(name: str, reports: Sequence[CaseReport]) -> Iterator[Finding]:
    """Yield what is wrong with a site as a whole: too small to be split, or turned."""
    patients = {report.case.patient for report in reports}
    if len(patients) < MIN_PATIENTS:
        yield Finding(
            "site-small",
            f"site {name} has {len(patients)} patient(s), expected at least {MIN_PATIENTS}: "
            "one each to train, validate and test on",
        )
        return
    angles = [report.rv_deg for report in reports if report.rv_deg is not None]
    for code, text in check_most(angles) if angles else ():
        yield Finding(code, f"site {name}: {text}")


def check_duplicates(sites: Sites, split_seed: int) -> Iterator[Finding]:
    """Yield images and labels that two patients share, and splits that share an image."""
    reports = [report for site in sites.values() for report in site]
    splits = split_by_patient(sites, split_seed)
    for group in _shared(reports, lambda r: r.image_hashes and r.image_hashes[1]):
        same = len({r.image_hashes for r in group}) == 1
        how = "the same image" if same else "the same image, turned or mirrored"
        patients = sorted({r.case.patient for r in group})
        names = some(r.case.name for r in group)
        yield Finding("duplicate-image", f"{names} hold {how}", patients[0])
        places = {patient: splits[patient] for patient in patients if patient in splits}
        if len({split for _, split in places.values()}) > 1:
            where = some(f"{p} in {split} of site {site}" for p, (site, split) in places.items())
            yield Finding("split-leak", f"{where}: one image in two splits", patients[0])
    for group in _shared(reports, lambda r: r.label_hash):
        names = some(r.case.name for r in group)
        yield Finding("duplicate-label", f"{names} hold the same label", group[0].case.patient)


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
