"""Looks at a site's data before it joins, and does not stop at the first fault.

grid         spacing, slices, field of view
intensities  images that are not what a scanner made
anatomy      what every heart's label has in common
orientation  what the network would see as left and right
thumbnails   small pictures of a case
case         one case from its files to its findings
patients     ED against ES
folder       images twice, sites and their splits
summary      a row for every scanner
sheet        pictures of every case, page by page
inspect      all of it, in several processes

Nothing here imports torch: that would take a worker process longer than a hundred cases.
"""
