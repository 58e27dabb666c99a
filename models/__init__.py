"""What is learned. Imports nothing of ours."""
