"""A page to look at: the zoo as one HTML file that needs nothing else."""
