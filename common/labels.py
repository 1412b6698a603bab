"""The one label set of the project; every data set is mapped onto it when it is read."""

BACKGROUND, LV, MYO, RV = range(4)
STRUCTURES = ("LV", "MYO", "RV")
"""Names of labels 1, 2 and 3, in label order."""
NUM_CLASSES = 1 + len(STRUCTURES)
