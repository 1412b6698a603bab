"""Inspect a site's data before it joins, and list all faults.

grid         spacing, slices, field of view
intensities  intensities that no scanner would make, and duplicate images
anatomy      labels that no heart would have
orientation  hearts that the network would see turned or mirrored
thumbnails   small pictures of a case
case         one case, from its files to its findings
folder       ED against ES, duplicates, sites and their splits
summary      a row for every scanner
sheet        pages with a picture of every case
inspect      a whole folder, in several processes

Nothing here imports torch, which would take each worker process longer than a hundred cases.
"""
