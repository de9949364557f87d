"""What leaves: a folder per network that runs without this project, full trainings, and their check."""
