"""The ground under every room: files that survive what happens to processes, disks and bits."""
