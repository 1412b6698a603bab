"""A comparison of methods by ``rate-my-lora compare``.

plan             the TOML file, and the runs that follow from it
folder           the files of one run, and how far it got
run_plan         brings all runs to their end
running          runs and evaluations as processes, one after another or side by side
leash            a process that does not outlive whoever started it
showing          how far the comparison is
evaluate_run     a run's models on every site's test patients
run_scores       the scores of a finished run, in-client and cross-client
row_results      the numbers of a row over its seeds, for all sites and site by site
result_tables    the tables as Markdown and csv
figures          the pictures of a setting, and that of all settings
write_results    writes tables and pictures
"""
