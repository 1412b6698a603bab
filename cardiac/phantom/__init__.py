"""Make synthetic short-axis cine MRI of hearts in the layouts of ACDC and M&Ms-2.

heart        a heart's shape and motion by disease
beat         the heart at one moment: surfaces, label map, tissues
chest        the organs around the heart
shapes       tissues, soft edges, smooth random textures
scanner      how each vendor's scanner shows a body
orientation  the order and direction in which a scanner stores slices, and their affine
examination  one patient examined on one scanner
layouts      the files of an examination
writer       whole data sets
"""

from cardiac.phantom.heart import DISEASES
from cardiac.phantom.scanner import SOURCE, VENDORS
from cardiac.phantom.writer import write_acdc, write_mnms2, write_phantom

__all__ = ["DISEASES", "SOURCE", "VENDORS", "write_acdc", "write_mnms2", "write_phantom"]
