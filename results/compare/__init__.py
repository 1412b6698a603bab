"""What ``rate-my-lora compare`` is made of.

plan        the TOML file, and the runs that follow from it
folder      what is kept of a run, and how far it got
running     runs and evaluations as processes, one after another or side by side
leash       a process that does not outlive whoever started it
showing     how far the comparison is
evaluation  a run's models on every site's test patients
scores      the scores of all runs as one list
results     the numbers of the table
tables      the table as Markdown and csv
plots       the pictures of a setting
across      the picture of all settings
report      writes tables and pictures
"""
