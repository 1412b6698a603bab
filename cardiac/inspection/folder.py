"""Check cases against each other: ED against ES, duplicates, sites and their splits."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from cardiac.datasets import FRAMES, Listing
from cardiac.datasets.sites import site_column, site_faults, site_of
from cardiac.faults import Fault, some
from cardiac.inspection.case import CaseReport
from cardiac.inspection.orientation import check_most
from cardiac.nifti import TOLERANCE, Found, by
from cardiac.splits import Cohorts, split_patients

Sites = dict[str, list[CaseReport]]
"""Reports of cases by the name of their site."""


def check_patients(reports: Sequence[CaseReport]) -> Iterator[Fault]:
    """Yield faults between ED and ES of patients who have both."""
    frames: dict[str, dict[str, CaseReport]] = {}
    for report in reports:
        frames.setdefault(report.case.patient, {})[report.case.frame] = report
    for patient, pair in frames.items():
        if set(FRAMES) <= set(pair):
            for code, text in _check_pair(pair["ED"], pair["ES"]):
                yield Fault(code, text, patient)


def _check_pair(ed: CaseReport, es: CaseReport) -> Found:
    if ed.shape and es.shape and ed.shape != es.shape:
        yield "frames-differ", f"ED has shape {ed.shape}, ES {es.shape}, expected one and the same"
    ed_mm, es_mm = ed.spacing_mm, es.spacing_mm
    if ed_mm is not None and es_mm is not None and not np.allclose(ed_mm, es_mm, rtol=TOLERANCE):
        text = f"ED has spacing {by(ed_mm)} mm, ES {by(es_mm)} mm, expected one and the same"
        yield "frames-differ", text
    if ed.image_hashes and ed.image_hashes == es.image_hashes:
        yield "frames-same", "ED and ES are the same image, expected two moments of a beat"
    if ed.label_hash and ed.label_hash == es.label_hash:
        yield "labels-same", "ED and ES have the same label, expected two moments of a beat"
    if ed.volumes_ml and es.volumes_ml and es.volumes_ml["LV"] > ed.volumes_ml["LV"]:
        text = f"LV has {ed.volumes_ml['LV']:.0f} ml in ED and {es.volumes_ml['LV']:.0f} ml in ES"
        yield "es-larger", f"{text}, expected less; are the frames exchanged?"


def divide(
    listing: Listing, reports: Sequence[CaseReport], split_by: str | None, data_dir: Path
) -> tuple[Sites, list[Fault]]:
    """Divide a folder's reports into sites as training would, and return the faults of that.

    ``split_by`` is the column whose values are the sites. With None it is the layout's own, and
    ACDC, which has none, counts as one site.
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


def check_site(name: str, reports: Sequence[CaseReport], least: Cohorts) -> Iterator[Fault]:
    """Yield faults of a site as a whole: too few patients to split, or most hearts turned."""
    patients = {report.case.patient for report in reports}
    if len(patients) < least.total:
        expected = f"at least {least.total}: {least.words()}"
        text = f"site {name} has {len(patients)} patient(s), expected {expected}"
        yield Fault("site-small", text)
        return
    angles = [report.rv_deg for report in reports if report.rv_deg is not None]
    for code, text in check_most(angles) if angles else ():
        yield Fault(code, f"site {name}: {text}")


def check_duplicates(sites: Sites, split_seed: int, least: Cohorts) -> Iterator[Fault]:
    """Yield faults of patients who share an image or a label, and of splits that share an image."""
    reports = [report for site in sites.values() for report in site]
    splits = split_by_patient(sites, split_seed, least)
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


def split_by_patient(
    sites: Sites, split_seed: int, least: Cohorts
) -> Mapping[str, tuple[str, str]]:
    """Return the site and split of every patient, for sites with enough patients to split."""
    places = {}
    for name, reports in sites.items():
        patients = {report.case.patient for report in reports}
        if len(patients) >= least.total:
            for split, members in split_patients(patients, split_seed, least).items():
                places.update({patient: (name, str(split)) for patient in members})
    return places


def _shared(
    reports: Sequence[CaseReport], key: Callable[[CaseReport], str | None]
) -> Iterator[list[CaseReport]]:
    """Yield groups of reports with the same key, if they are of more than one patient."""
    groups: dict[str, list[CaseReport]] = {}
    for report in reports:
        if value := key(report):
            groups.setdefault(value, []).append(report)
    for group in groups.values():
        if len({report.case.patient for report in group}) > 1:
            yield group
