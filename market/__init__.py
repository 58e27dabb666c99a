"""What happened, and what a position earns. Imports nothing of ours."""
