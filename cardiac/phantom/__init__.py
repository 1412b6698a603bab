"""Synthetic short-axis cardiac cine MRI in the layouts of ACDC and M&Ms-2, to try things on.

heart        the heart's shape and motion by disease
beat         the heart at one moment: surfaces, label map, tissues
chest        what surrounds it
shapes       tissues, soft edges, smooth random textures
scanner      what each vendor makes of a body
orientation  in which order and direction the vendor stores it
examination  one patient examined on one scanner
layouts      an examination's files
writer       whole data sets
"""

from cardiac.phantom.heart import DISEASES
from cardiac.phantom.scanner import SOURCE, VENDORS, Contrast, Scanner
from cardiac.phantom.writer import write_acdc, write_mnms2, write_phantom

__all__ = [
    "DISEASES",
    "SOURCE",
    "VENDORS",
    "Contrast",
    "Scanner",
    "write_acdc",
    "write_mnms2",
    "write_phantom",
]
