"""Job files for clusters, and the agent that their jobs start."""
