"""How it is learned: what turns experience into weights."""
