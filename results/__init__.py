"""What is made of finished runs: reports, comparisons and exports."""
