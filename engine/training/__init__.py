"""Training. Here, and in engine/explain, lives torch; nowhere else."""
