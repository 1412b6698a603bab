"""Reports, comparisons and exports: what is made of finished runs."""
