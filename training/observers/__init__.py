"""What follows a training from point to point, one file each; their order stands in `session.py`."""
